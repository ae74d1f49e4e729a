#!/usr/bin/env python3
"""Writes src/data/unicode_tables.c so that finemesh sees characters as the `tokenizers` library does, and the
expectation that the unit test checks every code point against.

Nothing here is taken from a Unicode database of another version: each property is asked of the library itself
(regular expressions, whitespace, digits, single words, NFD and NFC), over every code point.

    tokenizer_unicode.py            write both files
    tokenizer_unicode.py --check    exit 1 where the committed files differ from what the library does now
"""
import argparse
import itertools
import os
import sys
import unicodedata
import zlib

try:
    import tokenizers
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
TABLES = os.path.join(ROOT, "src", "data", "unicode_tables.c")
EXPECTED = os.path.join(ROOT, "tests", "unit", "data", "tokenizer", "unicode.txt")

ALL = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
TEXT = "".join(map(chr, ALL))
CATEGORIES = ("Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cn").split()
HANGUL = range(0xAC00, 0xAC00 + 11172)
JAMO = set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))

nfd = normalizers.NFD().normalize_str
nfc = normalizers.NFC().normalize_str


def spans(pre_tokenizer):
    """The code points that a pre-tokenizer keeps, from the offsets of what it keeps."""
    found = set()
    for _, (begin, end) in pre_tokenizer.pre_tokenize_str(TEXT):
        found.update(ALL[begin:end])
    return found


def regex_class(name):
    return spans(pre_tokenizers.Split(Regex(name + "+"), "removed", invert=True))


def single_word_class():
    """\\w as the added tokens' single_word sees it: a character before the token hides it."""
    tokenizer = Tokenizer(models.BPE({"x": 0}, []))
    tokenizer.add_tokens([AddedToken("\0\1", single_word=True, normalized=False)])
    token = tokenizer.token_to_id("\0\1")
    found = set()
    for c in ALL:
        if token not in tokenizer.encode(chr(c) + "\0\1").ids:
            found.add(c)
    return found


def classes():
    named = {name: regex_class(r"\p{%s}" % name) for name in CATEGORIES}
    for letter in "LMNPSZC":
        named[letter] = set().union(*[named[c] for c in CATEGORIES if c[0] == letter])
        assert named[letter] == regex_class(r"\p{%s}" % letter), letter
    named["space"] = regex_class(r"\s")
    assert named["space"] == set(ALL) - spans(pre_tokenizers.WhitespaceSplit())
    named["word"] = regex_class(r"\w")
    named["single_word"] = single_word_class()
    digits = pre_tokenizers.Digits(individual_digits=True).pre_tokenize_str("a".join(TEXT) + "a")
    named["numeric"] = {ALL[begin // 2] for _, (begin, end) in digits if begin % 2 == 0 and end - begin == 1}
    return named


def cells(named):
    """Code points of the same classes share a cell; a class is then a set of cells, one bit each."""
    names = sorted(named)
    member = {c: 0 for c in ALL}
    for bit, name in enumerate(names):
        for c in named[name]:
            member[c] |= 1 << bit
    kinds = {}
    cell_of = {c: kinds.setdefault(member[c], len(kinds)) for c in ALL}
    assert len(kinds) <= 64, len(kinds)
    masks = {name: sum(1 << cell for kind, cell in kinds.items() if kind >> bit & 1) for bit, name in enumerate(names)}
    return cell_of, masks


def combining_classes():
    """ccc from the order that NFD gives to pairs: x y becomes y x only where ccc(x) > ccc(y) > 0. The values themselves never
    change once assigned, so that one character that the library knows too stands for each."""
    swaps = lambda x, y: nfd("a" + x + y) == "a" + y + x and x != y
    lowest, highest = "\u0334", "\u0345"
    known = {}
    for c in ALL:
        value = unicodedata.combining(chr(c))
        if value and nfd(chr(c)) == chr(c) and (swaps(chr(c), lowest) or swaps(highest, chr(c))):
            known.setdefault(value, chr(c))
    values = sorted(known)
    assert all(swaps(known[b], known[a]) for a, b in itertools.pairwise(values))
    found = {}
    for c in ALL:
        x = chr(c)
        if nfd(x) != x or not (swaps(x, known[values[0]]) or swaps(known[values[-1]], x)):
            continue
        low, high = 0, len(values) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if swaps(known[values[middle]], x):
                high = middle - 1
            elif swaps(x, known[values[middle]]):
                low = middle
            else:
                low = high = middle
        assert not swaps(x, known[values[low]]) and not swaps(known[values[low]], x), hex(c)
        found[c] = values[low]
    return found


def decompositions():
    """One step of canonical decomposition: (a, b), or (a, 0) for a singleton; and which of them compose again."""
    steps, composes, whole = {}, {}, {nfd(chr(c)): c for c in reversed(ALL) if c not in HANGUL}
    for c in ALL:
        full = nfd(chr(c))
        if c in HANGUL or full == chr(c):
            continue
        steps[c] = (ord(full), 0) if len(full) == 1 else (whole[full[:-1]], ord(full[-1]))
        if nfc(chr(c)) == chr(c):
            steps[c] = (ord(nfc(full[:-1])), ord(full[-1]))
            composes[steps[c]] = c
    return steps, composes


def runs(value_of, default):
    """(first code point, value) wherever the value changes."""
    out, last = [], None
    for c in range(0x110000):
        value = value_of.get(c, default)
        if value != last:
            out.append((c, value))
            last = value
    return out


def array(kind, name, items, width=130):
    """Items without blanks between them, so that the tables stay within a file of the usual length."""
    lines, line = [], "    "
    for item in items:
        if len(line) + len(item) + 1 > width:
            lines.append(line)
            line = "    "
        line += item + ","
    lines.append(line)
    return f"const {kind} {name}[] = {{\n" + "\n".join(lines) + "\n};\n"


def count(kind, name, n):
    return f"const int {name} = {n};\n"


def tables(named, cell_of, masks, ccc, steps, composes):
    seconds = {b for _, b in composes} | JAMO
    changes = lambda c: nfc(chr(c)) != chr(c) or c in ccc or c in seconds
    byte = {c: cell_of[c] | (0x80 if c >= 0x80 and changes(c) else 0) for c in ALL}
    for c in range(0xD800, 0xE000):
        byte[c] = cell_of[0x378]            # never met in UTF-8 text: unassigned, as a neighbour that the library does see
    assert 0x378 in named["Cn"]
    order = sorted(steps)
    place = {c: i for i, c in enumerate(order)}
    parts = [
        "/* Written by tests/oracle/tokenizer_unicode.py from what the tokenizers library (%s) does; do not edit. */\n"
        '#include "data/unicode_tables.h"\n' % tokenizers.__version__]
    properties = runs(byte, None)
    parts += [array("uint32_t", "fm_unicode_runs", [f"{c << 8 | v:#x}" for c, v in properties]),
              count("int", "fm_unicode_n_runs", len(properties))]
    parts += [array("fm_unicode_class", "fm_unicode_classes", ['{ "%s", %#xu }' % (n, masks[n]) if masks[n] < 1 << 32
                    else '{ "%s", %#xull }' % (n, masks[n]) for n in sorted(masks)]),
              count("int", "fm_unicode_n_classes", len(masks))]
    marks = runs(ccc, 0)
    parts += [array("uint32_t", "fm_unicode_ccc_runs", [f"{c << 8 | v:#x}" for c, v in marks]),
              count("int", "fm_unicode_n_ccc_runs", len(marks))]
    parts += [array("fm_unicode_pair", "fm_unicode_pairs", ["{%#x,%#x,%#x}" % (c, *steps[c]) for c in order]),
              count("int", "fm_unicode_n_pairs", len(order))]
    parts += [array("uint16_t", "fm_unicode_compositions", [str(place[composes[p]]) for p in sorted(composes)]),
              count("int", "fm_unicode_n_compositions", len(composes))]
    return "\n".join(parts)


def text_hash(strings):
    crc = 0
    for s in strings:
        crc = zlib.crc32(s.encode() + b"\n", crc)
    return crc


def mark_sequences(ccc, steps):
    """Hostile input to NFC, from a generator simple enough to be written again in C: pieces by a linear congruence."""
    pool = sorted(set(ccc) | set(steps) | JAMO | set(range(0x1100, 0x1113)) | {0x41, 0x61, 0x6f, 0xAC00, 0xAC1C})
    state = 12345
    for _ in range(20000):
        piece = []
        for _ in range(8):
            state = (state * 1103515245 + 12345) % 2**31
            piece.append(chr(pool[(state >> 8) % len(pool)]))
        yield "".join(piece)


def expected(named, ccc, steps):
    lines = ["# class NAME members crc32 of the members as UTF-8 lines; then NFC and NFD of every code point and of mark sequences"]
    for name in sorted(named):
        lines.append(f"class {name} {len(named[name])} {text_hash(map(chr, sorted(named[name]))):08x}")
    lines.append(f"nfd {text_hash(nfd(chr(c)) for c in ALL):08x}")
    lines.append(f"nfc {text_hash(nfc(chr(c)) for c in ALL):08x}")
    lines.append(f"nfc_marks {text_hash(nfc(s) for s in mark_sequences(ccc, steps)):08x}")
    pairs = itertools.product(list(ccc)[::7] + [0x41, 0x61, 0x1100], list(ccc)[::5] + [0x1161, 0x11a8])
    assert all(nfc(chr(a) + chr(b)) == nfc(nfd(chr(a) + chr(b))) for a, b in pairs)
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare with the committed files instead of writing them")
    check = parser.parse_args().check
    named = classes()
    cell_of, masks = cells(named)
    ccc = combining_classes()
    steps, composes = decompositions()
    wanted = {TABLES: tables(named, cell_of, masks, ccc, steps, composes), EXPECTED: expected(named, ccc, steps)}
    wrong = 0
    for path, text in wanted.items():
        if check:
            same = open(path, encoding="utf-8").read().split("\n", 1)[1] == text.split("\n", 1)[1]
            print(f"{os.path.relpath(path, ROOT)}: {'agrees with' if same else 'DIFFERS from'} tokenizers {tokenizers.__version__}")
            wrong += not same
        else:
            with open(path, "w", encoding="utf-8") as out:
                out.write(text)
            print(f"{os.path.relpath(path, ROOT)}: written, {len(text)} bytes")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
