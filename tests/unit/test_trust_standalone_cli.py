"""The stand-alone verifier as somebody runs it who has nothing of ours but this one file."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from eth_hash.auto import keccak

from mesh.trust.attach import attached
from mesh.trust.certificate import Proof, Revocation
from mesh.trust.leaf import revocation_hash
from mesh.trust.present import links
from mesh.trust.receipt import Receipt
from mesh.trust.standalone import maily_verify
from tests.trust_support import CHAIN, CONTRACT, KEY, batch, event_anchor, mail

ID = "a2b3c4d5" * 4
KEY_LINE = str(KEY.verifier)
BODY = (
    "--b\r\nContent-Type: text/html\r\n\r\n<p>Hello Anna, our spring sale has begun: everything "
    "for the garden is a third off until Sunday.</p>\r\n--b--"
)
RAW = mail(BODY, **{"Content-Type": 'multipart/mixed; boundary="b"'})


class Desk:
    """A directory with the file and papers, and a Python to run it with."""

    def __init__(self, folder: Path, python: list[str]) -> None:
        self.folder, self._python = folder, python
        shutil.copy(maily_verify.__file__, folder / "maily_verify.py")

    def run(self, *arguments: str) -> tuple[int, dict[str, object], str]:
        """Exit status, its JSON, standard error. ``-I``: nothing of the environment's."""
        done = subprocess.run(
            [*self._python, "-I", "maily_verify.py", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "LANG": "C"},
            check=False,
        )
        assert "Traceback" not in done.stderr
        told = json.loads(done.stdout) if done.stdout.startswith("{") else {}
        return done.returncode, told, done.stderr

    def put(self, name: str, data: bytes) -> str:
        (self.folder / name).write_bytes(data)
        return name


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A Python with ``cryptography`` and what that needs, and no other package."""
    place = tmp_path_factory.mktemp("bare")
    venv.create(place, symlinks=True)
    paths = {"base": str(place), "platbase": str(place)}
    target = Path(sysconfig.get_path("purelib", "venv", paths))
    for name in ("cryptography", "cffi", "pycparser"):
        files = importlib.metadata.files(name) or []
        for top in {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}:
            (target / top).symlink_to(Path(sysconfig.get_path("platlib")) / top)
    return [str(place / "bin" / "python")]


@pytest.fixture
def desk(tmp_path: Path, bare: list[str]) -> Desk:
    return Desk(tmp_path, bare)


def test_nothing_but_the_standard_library_and_cryptography() -> None:
    tree = ast.parse(Path(maily_verify.__file__).read_text(encoding="utf-8"))
    names = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert {name.partition(".")[0] for name in names} - sys.stdlib_module_names == {"cryptography"}


def test_that_python_has_none_of_our_packages(bare: list[str]) -> None:
    code = (
        "import importlib.util as u, cryptography\n"
        "print([n for n in ('mesh', 'cbor2', 'pydantic', 'rfc8785', 'httpx') if u.find_spec(n)])"
    )
    done = subprocess.run([*bare, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_certificate_in_the_message_beside_it_and_from_a_code(desk: Desk) -> None:
    certificate = batch([RAW], filler=3).certificates[0]
    full, small = certificate.to_json(), certificate.compact().to_cbor()
    plain, sent = desk.put("m.eml", RAW), desk.put("s.eml", attached(RAW, full))
    digits = links.fragment_of(small)
    for papers in (
        [sent],
        [desk.put("c.json", full + b"\n"), plain],
        [desk.put("c.cbor", small), plain],
        [digits, plain],
        [f"#{digits}", plain],
        [links.verify_url("https://mail.example.com", ID, small), plain],
        [desk.put("h.eml", attached(RAW.replace(b"\r\n", b"\n"), small))],
    ):
        code, told, err = desk.run(*papers, "--key", KEY_LINE)
        assert (code, told["holds"], told["level"]) == (0, True, "exact"), (papers, err)
        assert err == "HOLDS: exact, included\n"
    (desk.folder / "trusted-keys.txt").write_text(f"# of the shop\n{KEY_LINE}\n")
    assert desk.run(sent)[0] == 0


def test_what_differs(desk: Desk) -> None:
    certificate = batch([RAW], filler=3).certificates[0].to_json()
    sent = attached(RAW, certificate).replace(b"a third", b"a half")
    code, told, err = desk.run(desk.put("s.eml", sent), "--key", KEY_LINE)
    assert (code, told["failedStep"], told["level"]) == (1, 4, "different")
    assert "text" in str(told["differs"])
    assert err.startswith("DOES NOT HOLD: step 4: ")


def test_a_receipt_and_a_revocation(desk: Desk) -> None:
    papers = batch([RAW], filler=3)
    anchor = event_anchor(papers.tree.root, count=8)
    receipt = desk.put("r.json", Receipt(papers.note, (anchor,)).to_json() + b"\n")
    sent = desk.put("s.eml", attached(RAW, papers.certificates[0].to_json()))
    give = [sent, "--key", KEY_LINE, "--receipt", receipt]
    block = f"{CHAIN}:0x{keccak(anchor.header).hex().upper()}"
    place = f"{CHAIN}:{CONTRACT.hex()}"
    code, told, err = desk.run(*give, "--block", block, "--contract", place)
    assert (code, told["state"]) == (0, "final")
    assert err == f"HOLDS: exact, final, block 4711 of chain {CHAIN}\n"
    assert desk.run(*give)[0] == 1  # whose word is it that the block is real?
    assert desk.run(*give, "--block", block, "--networks", "2")[0] == 1
    leaf = papers.certificates[0].leaf.hash
    later = batch([], extra=(revocation_hash(leaf, 1_780_000_000, 1),), filler=3, seed=5)
    entry = Revocation(leaf, 1_780_000_000, 1, Proof.of(later.tree, 0), later.note)
    revoked = desk.put("v.json", entry.to_json())
    code, told, _ = desk.run(*give[:3], "--revocation", revoked)
    assert (code, told["state"], told["failedStep"]) == (1, "revoked", 8)


def test_wrong_usage_is_told_apart_from_a_bad_mail(desk: Desk) -> None:
    small = batch([RAW]).certificates[0].compact().to_cbor()
    plain, good = desk.put("m.eml", RAW), desk.put("c.cbor", small)
    digits = links.fragment_of(small)
    for wrong in (
        [good, plain],  # nobody is trusted
        [plain, "--key", KEY_LINE],  # there is no certificate in it
        [good, "gone.eml", "--key", KEY_LINE],
        ["gone.json", plain, "--key", KEY_LINE],
        [f"https://mail.example.com/verify/{ID}", plain, "--key", KEY_LINE],
        [f"0{digits}", plain, "--key", KEY_LINE],
        [digits[:-1], plain, "--key", KEY_LINE],
        [good, plain, "--key", "x"],
        [good, plain, "--key", KEY_LINE, "--block", "x"],
        [good, plain, plain, "--key", KEY_LINE],
    ):
        code, told, err = desk.run(*wrong)
        assert (code, told) == (2, {}), wrong
        assert "maily_verify" in err
    code, _, _ = desk.run("--help")
    assert code == 0


def test_without_cryptography_it_says_what_to_do(tmp_path: Path) -> None:
    place = tmp_path / "empty"
    venv.create(place, symlinks=True)
    code, told, err = Desk(tmp_path, [str(place / "bin" / "python")]).run("m.eml")
    assert (code, told) == (2, {})
    assert "pip install cryptography" in err


def test_with_no_network_at_all(tmp_path: Path, bare: list[str]) -> None:
    apart = ["unshare", "--map-root-user", "--net"]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine gives no network namespaces")
    alone = "import socket; socket.create_connection(('127.0.0.1', 9), 1)"
    tried = subprocess.run(
        [*apart, *bare, "-c", alone], capture_output=True, text=True, check=False
    )
    assert "unreachable" in tried.stderr  # not even a loopback
    papers = batch([RAW], filler=3)
    anchor = event_anchor(papers.tree.root, count=8)
    desk = Desk(tmp_path, [*apart, *bare])
    code, told, _ = desk.run(
        links.fragment_of(papers.certificates[0].compact().to_cbor()),
        desk.put("m.eml", RAW),
        *("--key", KEY_LINE),
        *("--receipt", desk.put("r.json", Receipt(papers.note, (anchor,)).to_json())),
        *("--block", f"{CHAIN}:{keccak(anchor.header).hex()}"),
    )
    assert (code, told["level"], told["state"]) == (0, "exact", "final")


@pytest.mark.slow
def test_in_a_fresh_environment_made_by_pip(tmp_path: Path) -> None:
    place = tmp_path / "fresh"
    venv.create(place, with_pip=True, symlinks=True)
    python = str(place / "bin" / "python")
    installed = subprocess.run(
        [python, "-m", "pip", "install", "-q", "cryptography"], capture_output=True, check=False
    )
    if installed.returncode:
        pytest.skip("no package index can be reached")
    desk = Desk(tmp_path, [python])
    sent = attached(RAW, batch([RAW], filler=3).certificates[0].to_json())
    assert desk.run(desk.put("s.eml", sent), "--key", KEY_LINE)[0] == 0
