"""Strings that tokenizers have been seen to differ on, to prove one against another.

Each is named, so that a difference can be told. They are built, not listed, where they are long:
together they are some 300 kB, a fraction of a second for the slowest library.
"""

import base64
import unicodedata
from collections.abc import Iterator, Sequence

_RUN = 5_000
_ACCENTED = "Crème brûlée, Ångström, Việt Nam, naïve coöperation, Dvořák, İstanbul ǅ ﬁ ẛ̣"
_MIXED = (
    "Hello мир 世界 こんにちは 한국어 עברית العربية हिन्दी ไทย Ελληνικά ქართული "
    "ᓱᓴᓐ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 abcдеж漢字kana"
)
_EMOJI = "👩‍👩‍👧‍👦 🧑🏽‍🚀 🏳️‍🌈 🇩🇪🇯🇵 ❤️ ☺︎ 1️⃣ 👍🏿👍 🫠"
_CODE = """\
def f(x: int, *, y=1e-3) -> str:
\tif x<<2 != y**2 and not (x|y):  # don't "quote"
\t\treturn f'{x!r:>10}\\n' + r"\\d+\\.?\\d*"
    \treturn None


#include <stdio.h>
int main(void){ printf("%d\\n", 0xFFull); return a->b[c++] ?: 1; }
<a href="x?y=1&amp;z=2">&lt;</a> SELECT * FROM t WHERE a<>'it''s';\t$x = @{$y}{'z'} // ...
"""
_ENGLISH = "I'll, we'd, they've, it's, I'm, YOU'RE, 'S'T, don’t, O'Neil's rock'n'roll 'twas isn't"


def awkward_strings(special_tokens: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Names and strings, to be encoded each as a document.

    Args:
        special_tokens: strings that mean something to the tokenizer, to meet as text.
    """
    yield "no text", ""
    for name, text in _PLAIN:
        yield name, text
    for name, character in _REPEATED:
        for length in (1, 2, 3, 4, 7, 8, 9, 16, 17, 33, 64, 127, 300):
            yield f"a run of {name}", character * length
            yield f"a run of {name} in words", f"x {character * length}y\n{character * length} z"
        yield f"a long run of {name}", character * _RUN
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        for text in (_ACCENTED, _MIXED, "가각 ﷺ ½ ① Ａｂｃ ㍿ Å Ω ſ"):
            yield f"text in {form}", unicodedata.normalize(form, text)
    for begin in range(0, 0x2100, 0x20):
        characters = [chr(code) for code in range(begin, begin + 0x20)]
        yield f"U+{begin:04X} and what follows", "".join(characters)
        yield f"U+{begin:04X} and what follows, in words", "a".join(characters)
    for code in _SPACES:
        space = chr(code)
        yield f"the space U+{code:04X}", f"{space}a{space}{space}b \n{space}1{space}.{space}"
        yield f"the space U+{code:04X} alone", space
    for code in _NEW:
        character = chr(code)
        yield f"the new character U+{code:04X}", f'a{character}", {character}b1{character}2'
    yield from _special(special_tokens)


def _special(tokens: Sequence[str]) -> Iterator[tuple[str, str]]:
    name = "special tokens as text"
    if not tokens:
        return
    yield name, "".join(tokens)
    yield name, " ".join(tokens)
    yield name, "\n".join(f"x{token}y" for token in tokens)
    for token in tokens[:64]:
        for text in (token, f" {token} ", f"{token}{token}", f"a {token}\n b", token[:-1] + "-"):
            yield name, text


# White space in Unicode, in Python or to some tokenizer, and characters without width.
_SPACES = (
    *(0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x1C, 0x1D, 0x1E, 0x1F, 0x20, 0x85, 0xA0, 0xAD, 0x1680, 0x180E),
    *range(0x2000, 0x2010),
    *(0x2028, 0x2029, 0x202E, 0x202F, 0x205F, 0x2060, 0x2581, 0x3000, 0x3164, 0xFE0F, 0xFEFF),
)
# Letters, marks and digits of Unicode 16 and 17.
_NEW = (0x088F, 0xA7CB, 0xA7CE, 0x10D40, 0x10D50, 0x11DE0, 0x16EA0, 0x16D6C, 0x1E6C0, 0x1E6E3)
_PLAIN = (
    ("mixed scripts", _MIXED),
    ("scripts from right to left", "שָׁלוֹם עולם\u200f abc ‮مرحبا‬ بالعالم ١٢٣ 1,234 (א)"),
    ("combining marks", "e\u0301 \u0301 a\u0300\u0316\u0334b Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢ n\u0303 \u1100\u1161\u11a8"),
    ("accents", _ACCENTED),
    ("emoji", _EMOJI),
    ("control characters", "a\0b\x01\x02\x07\x08\x1b[31mred\x1b[0m\x7f\x80\x9f\0\0c"),
    ("what stands for invalid UTF-8", "caf\ufffd \ufffd\ufffd\ufffd data\ufffd\n\ufffd"),
    ("private and unassigned characters", "\ue000\uf8ff \U000f0000\U0010fffd \ufdd0\uffff\u0378"),
    ("ends of lines", "a\r\nb\r\n\r\nc\rd\n\re\n\n\nf \r\n g\t\r\n  \n"),
    ("English contractions", _ENGLISH),
    (
        "numbers",
        "3.14159 1,000,000 1234567890123 0x1F 1e-10 ²³ ½ Ⅳ ٣٤ 12ab34 v1.2.3 $9.99 5% 1_0",
    ),
    ("code", _CODE),
    ("indentation", "\n".join(" " * n + "x" + "\t" * (n % 5) for n in range(40))),
    ("punctuation", "!!! ?!?! ... --- ___ *** ### @@@ <<<>>> ((())) [[]] {{}} “” ‘’ «» … — –·•¿¡"),
    ("punctuation after letters", "a!b?c.d,e;f:g'h\"i(j)k[l]m{n}o/p\\q|r`s~t@u#v$w%x^y&z*"),
    ("text without spaces", base64.b64encode(bytes(i * i % 251 for i in range(6_000))).decode()),
    ("a long word", "pneumonoultramicroscopicsilicovolcanoconiosis" * 40),
    ("letters of two cases", "camelCaseXMLHttpRequest HELLOworld McDonald iPhone ǅungla ᾈΔΗΣ ﬀ"),
    ("Chinese text", "他说:“你好,世界!”然后——走了。２０２４年１月,共有１２３人。" * 8),
    (
        "Japanese text",
        "これはテストです。カタカナとひらがな、ｶﾀｶﾅ、漢字かな交じり。「引用」ー" * 8,
    ),
    ("Thai text", "ภาษาไทยไม่มีการเว้นวรรคระหว่างคำ กำลังทดสอบ ๑๒๓" * 4),
    ("Indic text", "क्षत्रिय श्री १२३ বাংলা தமிழ் తెలుగు ಕನ್ನಡ മലയാളം" * 4),
    ("SentencePiece's space", "▁a▁▁b ▁ c▁ ▁▁ ▁\n▁"),
    ("leading and trailing spaces", "   a  b   c    "),
    ("white space only", " \t \n \r\n \u3000 \u00a0"),
    ("bytes as pieces", "<0x41><0x0A><0x00> <0xFF><0xff>"),
)
_REPEATED = (
    ("spaces", " "),
    ("newlines", "\n"),
    ("ends of lines", "\r\n"),
    ("tabs", "\t"),
    ("digits", "7"),
    ("one letter", "a"),
    ("dots", "."),
    ("dashes", "-"),
    ("one Chinese character", "哈"),
    ("one emoji", "😀"),
    ("no-break spaces", "\u00a0"),
    ("combining marks", "\u0301"),
)
