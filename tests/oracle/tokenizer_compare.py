#!/usr/bin/env python3
"""Compares `finemesh tokenize` with transformers' AutoTokenizer on hostile text, both ways, for any model directories.

    tokenizer_compare.py [--program "./finemesh tokenize"] [--rounds N] [--seconds S] [--seed N] DIR...

Each round is 1,000 texts and 300 lists of ids for every directory. Prints a line a directory; exit 1 where anything differs
(the first few differences are shown), 77 where transformers is not there.
"""
import argparse
import glob
import json
import random
import shlex
import subprocess
import sys
import time

try:
    from transformers import AutoTokenizer
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

SPACES = [" ", "  ", "\t", "\n", "\r\n", "\r", "\v", "\f", "\u0085", "\u00a0", "\u180e", "\u2003", "\u2028", "\u3000", "\u200b", "\ufeff"]
PIECES = ["'s", "'T", "'ll", "'RE", "'\u017f", "\u2019s", "don't", "I'Ve", "\0", "\0\0", "\u2581", "\u2581\u2581", "\u0120", "\u010a", "<0x41>", "<0xE2>",
          "<0x0A>", "\ufffd", "e\u0301", "\u00e9", "A\u030a\u0327", "\u212b", "\u1e69", "s\u0323\u0307", "\u1100\u1161\u11a8", "\uac00\u11a8", "\u0f73",
          "\u0344", "\u1f02", "1234567", "\u0661\u0662", "\u4e8c\u5341", "\u00bd", "\u2167", "\U0001d7d8", "\U0001f468\u200d\U0001f469\u200d\U0001f467",
          "\u0915\u094d\u0937", "\u202e", "\u0300\u0301\u0316", "zz\u0328\u0301", "\u1175", "\U00011099\U000110ba", "\u2126", "\u0958", "_", "#$%", "...", "```"]
SCRIPTS = [(0x20, 0x7f), (0xa0, 0x250), (0x300, 0x370), (0x370, 0x530), (0x590, 0x700), (0x900, 0xe00), (0xe00, 0x1100), (0x1100, 0x1200),
           (0x1e00, 0x2100), (0x2150, 0x2600), (0x3040, 0x3130), (0x4e00, 0x9fff), (0xac00, 0xd7a4), (0xf900, 0xfb50), (0x10000, 0x11000),
           (0x1d400, 0x1d800), (0x1f300, 0x1fb00), (0x20000, 0x2a6df), (0xe0000, 0xe01f0)]


def character(random, low=0, high=0x110000):
    while True:
        code = random.randrange(low, high)
        if not 0xd800 <= code < 0xe000:
            return chr(code)


def real_words():
    words = []
    for path in sorted(glob.glob("/usr/share/common-licenses/*") + glob.glob("/usr/lib/python3*/[a-d]*.py"))[:40]:
        with open(path, encoding="utf-8", errors="ignore") as text:
            words.append(text.read(20000))
    return words or ["The quick brown fox"]


def text(random, specials, real):
    kind = random.randrange(8)
    if random.random() < 0.02:                   # longer than the windows in which long words are merged
        alphabet = random.choice(["ab", "aab ", "abcdefghijklmnopqrstuvwxyz", "etaoinshr\u00e9\u4e2d\u6587", "\u0e01\u0e02\u0e32\u0e35 "])
        start = random.choice(real)
        return random.choice([start, start.replace(" ", ""), "".join(random.choice(alphabet) for _ in range(6000))])[:9000]
    if kind == 0:
        return "".join(character(random) for _ in range(random.randrange(40)))
    if kind == 1:
        low, high = random.choice(SCRIPTS)
        return "".join(character(random, low, high) for _ in range(random.randrange(60)))
    if kind == 2:
        start = random.choice(real)
        at = random.randrange(max(1, len(start) - 1))
        return start[at:at + random.randrange(400)]
    if kind == 3:
        return random.choice(PIECES + SPACES + ["a", "Q", "7", "!"]) * random.randrange(1, 300)
    out = []
    for _ in range(random.randrange(1, 30)):
        choice = random.randrange(7)
        if choice == 0:
            out.append(random.choice(SPACES))
        elif choice == 1:
            out.append(random.choice(PIECES))
        elif choice == 2 and kind >= 6:
            special = random.choice(specials)
            out.append(special if random.random() < 0.7 else special[:random.randrange(1, len(special) + 1)])
        elif choice == 3:
            low, high = random.choice(SCRIPTS)
            out.append("".join(character(random, low, high) for _ in range(random.randrange(1, 5))))
        elif choice == 4:
            out.append(random.choice(["the", "Hello", "WORLD", "x", "foo_bar", "don", "3.14", "http://a.b/c?d=e&f"]))
        elif choice == 5:
            out.append(random.choice(SPACES) * random.randrange(1, 6))
        else:
            out.append(character(random, 0x20, 0x7f))
    return "".join(out)


def run(program, directory, lines, *options):
    data = "".join(json.dumps(line) + "\n" for line in lines)
    done = subprocess.run([*program, directory, *options], input=data, capture_output=True, text=True, encoding="utf-8")
    if done.returncode != 0:
        raise SystemExit(f"{directory}: the program failed: {done.stderr.strip()}")
    return [json.loads(line) for line in done.stdout.split("\n") if line]


def compare(program, directory, tokenizer, random, real):
    """Texts, ids and those of both that differ."""
    specials = [t.content for t in tokenizer.added_tokens_decoder.values()] or ["<s>"]
    texts = [text(random, specials, real) for _ in range(1000)]
    wanted = [tokenizer(t)["input_ids"] for t in texts]
    got = [line["input_ids"] for line in run(program, directory, [{"text": t} for t in texts])]
    different = [(t, w, g) for t, w, g in zip(texts, wanted, got, strict=True) if w != g]
    top = len(tokenizer)
    lists = random.sample(wanted, 200) + [[random.randrange(top) for _ in range(random.randrange(30))] for _ in range(100)]
    decoded = [tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in lists]
    back = [line["text"] for line in run(program, directory, [{"input_ids": ids} for ids in lists], "--decode")]
    different += [(ids, w, g) for ids, w, g in zip(lists, decoded, back, strict=True) if w != g]
    return len(texts), len(lists), different


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("directories", nargs="+")
    parser.add_argument("--program", default="./finemesh tokenize")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0, help="go on for so long instead of a number of rounds")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    real, failed = real_words(), False
    loaded = {d: AutoTokenizer.from_pretrained(d) for d in options.directories}
    totals = {d: [0, 0, []] for d in options.directories}
    start, rounds = time.monotonic(), 0
    while rounds < options.rounds or time.monotonic() - start < options.seconds:
        for directory, tokenizer in loaded.items():
            chance = random.Random(f"{options.seed} {rounds} {directory}")
            n_texts, n_lists, different = compare(shlex.split(options.program), directory, tokenizer, chance, real)
            totals[directory][0] += n_texts
            totals[directory][1] += n_lists
            totals[directory][2] += different
        rounds += 1
        if any(len(total[2]) > 20 for total in totals.values()):
            break
    for directory, (n_texts, n_lists, different) in totals.items():
        print(f"{directory}: {type(loaded[directory]).__name__}: {n_texts} texts, {n_lists} lists of ids, {len(different)} differ")
        for given, wanted, got in different[:5]:
            print(f"  {given!r}\n    transformers {wanted!r}\n    finemesh     {got!r}")
        failed = failed or bool(different)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
