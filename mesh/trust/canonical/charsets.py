"""Bytes to characters by a closed table of labels, as browsers read them (spec §3 and §8)."""

from __future__ import annotations

_TABLE = {
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "us-ascii": "cp1252",
    "ascii": "cp1252",
    "iso-8859-1": "cp1252",
    "latin1": "cp1252",
    "windows-1252": "cp1252",
    "cp1252": "cp1252",
    "iso-8859-9": "cp1254",
    "koi8-r": "koi8-r",
    "koi8-u": "koi8-u",
    "macintosh": "mac-roman",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "gb18030": "gb18030",
    "big5": "big5",
    "shift_jis": "cp932",
    "euc-jp": "euc-jp",
    "iso-2022-jp": "iso-2022-jp",
    "euc-kr": "cp949",
    "ks_c_5601-1987": "cp949",
    "utf-16le": "utf-16-le",
    "utf-16be": "utf-16-be",
    **{f"iso-8859-{n}": f"iso-8859-{n}" for n in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)},
    **{f"windows-125{n}": f"cp125{n}" for n in (0, 1, 3, 4, 5, 6, 7, 8)},
}


def decode_text(data: bytes, label: str) -> str:
    """The label's charset if it fits, else UTF-8, else windows-1252, which takes anything."""
    for codec in (_TABLE.get(label.strip(" \t").lower(), "utf-8"), "utf-8"):
        try:
            return data.decode(codec)
        except UnicodeError:
            continue
    return data.decode("cp1252", "replace")
