#!/usr/bin/env python3
"""Writes the small tokenizers of tests/unit/data/tokenizer/, with the components of real ones, and what transformers makes of a
hostile corpus with each: DIR/tokenizer.json, tokenizer_config.json, config.json and expected.jsonl, a line for each line of
corpus.jsonl: ids, how many of them only begin the text, decoded text, and what is shown of it without special tokens."""
import json
import os
import sys

try:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import AutoTokenizer
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "unit", "data", "tokenizer")
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TRAINING = ["the cat sat on the mat and the dog ran to the other house", "Hello world, hello there; the weather is nice in the north",
            "def function(self, value):\n    return self.value + value\n", "aaaaaaaaaaaaaaaa bbbb      indented        text",
            "na\u00efve caf\u00e9 \u00fcber stra\u00dfe \u4e2d\u6587\u4e2d\u6587 \u65e5\u672c\u8a9e", "I'm, you're, don't, we'll, they've 1234567890 2024 1999"] * 4
CORPUS = ["", "a", " ", "Hello world", " Hello  world ", "the other  house\n\n\tin the north", "I'm DON'T we'Ll \u2019s '\u017f '\u212a",
          "1234567 3.14 \u0661\u0662\u0663 \u2167 \u00bd \u4e8c\u5341", "na\u00efve cafe\u0301 A\u030a\u0327 \u212b \u1e69 s\u0323\u0307",
          "\u1100\u1161\u11a8 \uac00\u11a8 \u0f73 \u0344 \u0958 \u2126 \U00011099\U000110ba", "\u4e2d\u6587\u65e5\u672c\u8a9e\u3000\u304b\u3099 \uff21\uff11",
          "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f600\ufe0f \U0001d7d8 \U000e0001", "a\0b\0\0", "\ufeffx\u200by\u202ez\u00adw\u0085v",
          "\t\t\r\n\r\n  \n x \v\f \u00a0\u2003\u2028\u180e!", "a" * 300, " " * 100, "ab" * 90, "\n" * 50 + " x", "!?" * 40 + "\r\n\r\n",
          "\u0301" * 70, "e" + "\u0316\u0301\u0327" * 30, "\u2581\u2581x \u2581y", "\u0120\u010a <0x41><0xE2> \ufffd", "<|end|>", "x<|end|>y <|end|> z<|end",
          "<s>a</s> <s> b </s><unk>", "<tool> a<tool>b  <tool>\n", " \n <wide> \t wide<wide>", "word <word>word <word> <word>.<word>",
          "E\u0301TOK \u00c9TOK etok", "def f(self):\n    return self\n" * 3, "http://a.b/c?d=e&f=%20#g", "foo_bar-baz__qux $x^2$ `code`",
          "\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd \u0645\u0631\u062d\u0628\u0627 \u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
          "\u0378\ue000\U0010ffff\ufffe \U0003134f \u1c89 \ua7dc \U00010d4a"]


def train(initial, n_tokens, specials, pre_tokenizer, normalizer=None, **options):
    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=n_tokens, special_tokens=specials, initial_alphabet=initial, show_progress=False)
    tokenizer.train_from_iterator(TRAINING, trainer)
    return tokenizer


def bos(token, number):
    return processors.TemplateProcessing(single=f"{token} $A", pair=f"{token} $A {token}:1 $B:1", special_tokens=[(token, number)])


def byte_level(n_tokens, specials, split=None, **options):
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    splits = level if split is None else pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated"), level])
    tokenizer = train(pre_tokenizers.ByteLevel.alphabet(), n_tokens, specials, splits, **options)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def gpt2():
    tokenizer = byte_level(330, ["<|end|>"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer, {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|end|>", "eos_token": "<|end|>", "unk_token": "<|end|>",
                       "model_max_length": 10**30}, None


def sentencepiece(normalizer, pre_tokenizer):
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    tokenizer = train([], 420, ["<unk>", "<s>", "</s>"] + bytes_, pre_tokenizers.Metaspace(), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    file = json.loads(tokenizer.to_str())
    file["added_tokens"] = file["added_tokens"][:3]          # the bytes are tokens of the model alone
    tokenizer = Tokenizer.from_str(json.dumps(file))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    tokenizer.post_processor = bos("<s>", 1)
    return tokenizer


def llama2():
    tokenizer = sentencepiece(normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]), None)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tokenizer, {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": {"__type": "AddedToken", "content": "</s>"},
                       "unk_token": "<unk>", "add_bos_token": True, "legacy": True}, {"model_type": "llama"}


def mistral():
    """The same file as Llama 2's, but of a model type for which transformers takes it as it is."""
    tokenizer, config, _ = llama2()
    return tokenizer, config, {"model_type": "mistral"}


def qwen3():
    tokenizer = byte_level(330, ["<|end|>", "<|start|>"], split=QWEN, normalizer=normalizers.NFC())
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    return tokenizer, {"tokenizer_class": "Qwen2Tokenizer", "bos_token": None, "eos_token": "<|end|>", "pad_token": "<|end|>", "unk_token": None,
                       "added_tokens_decoder": {str(i): dict(content=t.content, lstrip=t.lstrip, rstrip=t.rstrip, normalized=t.normalized,
                                                             single_word=t.single_word, special=t.special)
                                                for i, t in tokenizer.get_added_tokens_decoder().items()}}, {"model_type": "qwen3"}


def llama3():
    tokenizer = byte_level(330, ["<|end|>", "<s>"], split=LLAMA3, ignore_merges=True)
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), bos("<s>", 1)])
    return tokenizer, {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<|end|>"}, {"model_type": "llama"}


def odd():
    """Every kind of added token and the components that the others leave out."""
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Split("-", "merged_with_previous"),
             pre_tokenizers.Split(Regex("[.,]+"), "merged_with_next"), pre_tokenizers.Split(Regex(r"[a-z]++(?=_)|\p{Lu}{2,}?"), "contiguous"),
             pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)]
    normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.Replace(Regex("[\u0300-\u0310]+"), "~"), normalizers.Strip(left=False, right=True)])
    tokenizer = train(pre_tokenizers.ByteLevel.alphabet(), 300, ["<unk>", "<|end|>"], pre_tokenizers.Sequence(steps), normalizer)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken("<wide>", lstrip=True, rstrip=True), AddedToken("<word>", single_word=True, normalized=False),
                          AddedToken("\u00c9TOK", normalized=True), AddedToken("the", normalized=False), AddedToken("there", normalized=False)])
    return tokenizer, {"eos_token": "<|end|>", "pad_token": "<pad>", "extra_special_tokens": ["<tool>"]}, {"model_type": "llama"}


def metaspace():
    tokenizer = train([], 200, ["<unk>"], pre_tokenizers.Metaspace(prepend_scheme="first", split=True), unk_token="<unk>")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first", split=True)
    return tokenizer, {"unk_token": "<unk>"}, {"model_type": "llama"}


def write(name, tokenizer, config, model_config):
    directory = os.path.join(ROOT, name)
    os.makedirs(directory, exist_ok=True)
    file = json.loads(tokenizer.to_str())
    if name in ("gpt2", "llama2"):
        file["model"]["merges"] = [" ".join(pair) for pair in file["model"]["merges"]]        # the older form
    for path, value in (("tokenizer.json", file), ("tokenizer_config.json", config), ("config.json", model_config)):
        if value is not None:
            with open(os.path.join(directory, path), "w", encoding="utf-8") as out:
                out.write(json.dumps(value, ensure_ascii=name == "qwen3", separators=(",", ":")) + "\n")
    loaded = AutoTokenizer.from_pretrained(directory)
    with open(os.path.join(directory, "expected.jsonl"), "w", encoding="utf-8") as out:
        for text in CORPUS:
            ids = loaded(text)["input_ids"]
            plain = loaded(text, add_special_tokens=False)["input_ids"]
            assert plain == ids[len(ids) - len(plain):]
            row = {"ids": ids, "begins": len(ids) - len(plain), "text": loaded.decode(ids, clean_up_tokenization_spaces=False),
                   "shown": loaded.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)}
            row = {key: value for key, value in row.items() if not (key == "shown" and value == row["text"] or key == "begins" and value == 0)}
            out.write(json.dumps(row, separators=(",", ":")) + "\n")
    print(f"{name}: {type(loaded).__name__}, {len(loaded)} tokens, eos {loaded.eos_token_id}")


def main():
    with open(os.path.join(ROOT, "corpus.jsonl"), "w", encoding="utf-8") as out:
        out.writelines(json.dumps({"text": text}) + "\n" for text in CORPUS)
    for make in gpt2, llama2, mistral, qwen3, llama3, odd, metaspace:
        write(make.__name__, *make())


if __name__ == "__main__":
    main()
