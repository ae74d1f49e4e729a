#!/usr/bin/env python3
"""Makes the tiny model and the instruction data of this directory; needs torch, transformers and tokenizers.

    python make_tiny.py [--out DIR] [--minutes 5] [--check]

The model (inputs/tiny-llama) continues plain statements about a little world: capitals, animals, opposites, days, trades,
sums. It has never seen a question. The instruction data asks, with or without a context, about the same facts; the facts
that the validation file asks for are asked nowhere in the training file. --check imitates the quickstart job in torch and
prints the losses and the answers before and after.

Nothing here is needed to build, test or use finemesh: the results are in the tree.
"""
import argparse
import json
import math
import os
import random
import time

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

EOS, PAD = "<|end|>", "<|pad|>"
COUNTRIES = """Norway Oslo Norwegian|Sweden Stockholm Swedish|Denmark Copenhagen Danish|Finland Helsinki Finnish
France Paris French|Spain Madrid Spanish|Portugal Lisbon Portuguese|Italy Rome Italian|Greece Athens Greek
Poland Warsaw Polish|Hungary Budapest Hungarian|Ireland Dublin Irish|Germany Berlin German|Russia Moscow Russian
Turkey Ankara Turkish|Japan Tokyo Japanese|China Beijing Chinese|Iceland Reykjavik Icelandic|Romania Bucharest Romanian
Bulgaria Sofia Bulgarian|Thailand Bangkok Thai|Vietnam Hanoi Vietnamese|Iran Tehran Persian|Kenya Nairobi Swahili"""
ANIMALS = """cat kitten meows|dog puppy barks|horse foal neighs|cow calf moos|sheep lamb bleats|bear cub growls
duck duckling quacks|goose gosling honks|frog tadpole croaks|hen chick clucks|pig piglet grunts|swan cygnet hisses
wolf pup howls|fox kit yelps"""
OPPOSITES = """hot cold|big small|old new|fast slow|wet dry|high low|open closed|light dark|hard soft|full empty|early late
strong weak|happy sad|loud quiet|near far|long short|rich poor|clean dirty|sweet sour|thick thin|wide narrow|brave timid"""
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday Monday".split()
MONTHS = """January February March April May June July August September October November December January""".split()
COLOURS = "snow white|coal black|grass green|blood red|the sky blue|the sun yellow|chocolate brown|ash grey|milk white|tar black"
MADE_OF = """bread flour|paper wood|glass sand|cheese milk|wine grapes|yarn wool|a candle wax|a tyre rubber|a brick clay
a coin metal|a sail cloth|a shoe leather|jam fruit|a window glass|cider apples"""
PLACES = """baker bakery|teacher school|doctor hospital|farmer farm|sailor ship|cook kitchen|judge court|pilot plane
monk monastery|dancer theatre|miner mine|priest church|clerk office|soldier camp|butler house|student library"""


def facts(text):
    """Rows of words; the last ones are single words, the first takes the rest."""
    rows = text.replace("\n", "|").split("|")
    width = min(len(row.split()) for row in rows)
    return [row.rsplit(" ", width - 1) for row in rows]


# Each relation: its pairs (a, b), the statements that the model is pretrained on, the question about a whose answer is b, and
# (or None) the same with a context.
RELATIONS = [
    ([(c, x) for c, x, _ in facts(COUNTRIES)],
     ["The capital of {a} is {b}.", "{b} is the capital of {a}.", "{a} is a country. Its capital is {b}."],
     ("What is the capital of {a}?", "{b}."), ("{a} is a country.", "What is its capital?")),
    ([(c, x) for c, _, x in facts(COUNTRIES)],
     ["The people of {a} speak {b}.", "{a} is a country. Its people speak {b}."],
     ("What do the people of {a} speak?", "{b}."), ("{a} is a country.", "What do its people speak?")),
    ([(n, x) for n, x, _ in facts(ANIMALS)],
     ["A young {a} is a {b}.", "A {b} is a young {a}.", "A {a} is an animal. Its young is a {b}."],
     ("What is a young {a}?", "a {b}."), ("A {a} is an animal.", "What is its young?")),
    ([(n, x) for n, _, x in facts(ANIMALS)],
     ["A {a} {b}.", "A {a} is an animal. It {b}."],
     ("What does a {a} do?", "It {b}."), ("A {a} is an animal.", "What does it do?")),
    ([tuple(pair[::way]) for pair in facts(OPPOSITES) for way in (1, -1)],
     ["The opposite of {a} is {b}.", "What is not {a} is {b}."],
     ("What is the opposite of {a}?", "{b}."), None),
    (list(zip(DAYS, DAYS[1:])), ["The day after {a} is {b}.", "{a} is before {b}."],
     ("Which day comes after {a}?", "{b}."), ("Today is {a}.", "Which day is tomorrow?")),
    (list(zip(MONTHS, MONTHS[1:])), ["The month after {a} is {b}.", "{a} is before {b}."],
     ("Which month comes after {a}?", "{b}."), None),
    ([tuple(pair) for pair in facts(COLOURS)], ["The colour of {a} is {b}."],
     ("Which colour is {a}?", "{b}."), None),
    ([tuple(pair) for pair in facts(MADE_OF)], ["One makes {a} out of {b}.", "{b} becomes {a}."],
     ("What is {a} made of?", "{b}."), None),
    ([tuple(pair) for pair in facts(PLACES)], ["A {a} works in a {b}.", "In a {b} works a {a}."],
     ("Where does a {a} work?", "in a {b}."), ("Anna is a {a}.", "Where does she work?")),
    ([(f"{a} plus {b}", str(a + b)) for a in range(7) for b in range(7)], ["{a} is {b}.", "{b} is {a}."],
     ("How much is {a}?", "{b}."), None),
]


def statement(rng):
    pairs, statements, _, _ = rng.choice(RELATIONS)
    a, b = rng.choice(pairs)
    text = rng.choice(statements).format(a=a, b=b)
    return text[0].upper() + text[1:]


def document(rng):
    return " ".join(statement(rng) for _ in range(rng.randrange(1, 7)))


def instruction_data(seed):
    """Training and validation samples: each fact is asked for, in both forms, in one of the files only."""
    rng = random.Random(seed)
    train, valid = [], []
    for pairs, _, (question, answer), with_context in RELATIONS:
        held_out = set(rng.sample(range(1, len(pairs)), len(pairs) // 8)) | ({0} if pairs[0][1] == "Oslo" else set())
        for i, (a, b) in enumerate(pairs):
            side = valid if i in held_out else train
            side.append({"context": "", "question": question.format(a=a), "answer": answer.format(b=b)})
            if with_context:
                context, short = with_context
                side.append({"context": context.format(a=a), "question": short, "answer": answer.format(b=b)})
    rng.shuffle(train)
    return train, valid


def make_tokenizer(seed, vocabulary):
    """Byte-level BPE whose merges stop at blanks: a prompt that ends in one is a prefix of prompt + answer in tokens too."""
    rng = random.Random(seed)
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r" |\d|\w+|[^\w\s]"), "isolated"), byte_level])
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[EOS, PAD], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    texts = [document(rng) for _ in range(8000)] + [" ".join(sample.values()) for part in instruction_data(seed) for sample in part]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD,
                                   clean_up_tokenization_spaces=False, model_max_length=512)


def new_model(tokenizer, seed):
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=96, intermediate_size=264, num_hidden_layers=4,
                         num_attention_heads=6, num_key_value_heads=3, head_dim=16, max_position_embeddings=512,
                         tie_word_embeddings=True, initializer_range=0.04, bos_token_id=None,
                         eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return model


def pretrain(model, tokenizer, seed, minutes, rows=16, columns=96):
    """Documents end to end with eos between, cut into rows; AdamW under a cosine of the time that is left."""
    rng = random.Random(seed + 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05, betas=(0.9, 0.98))
    pool, start, step = [], time.time(), 0
    while (used := (time.time() - start) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 100) * (0.02 + 0.98 * (1 + math.cos(math.pi * used)) / 2)
        while len(pool) < rows * columns:
            pool += tokenizer(document(rng))["input_ids"] + [tokenizer.eos_token_id]
        batch = torch.tensor(pool[:rows * columns]).view(rows, columns)
        pool = pool[rows * columns:]
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            print(f"pretraining: step {step}, {time.time() - start:.0f} s, loss {loss.item():.3f}", flush=True)


def encode(tokenizer, sample):
    """ids and labels as an `instruction` sample of finemesh."""
    prompt = " ".join(s for s in (sample["context"], sample["question"]) if s) + " "
    ids = tokenizer(prompt + sample["answer"])["input_ids"] + [tokenizer.eos_token_id]
    n = len(tokenizer(prompt)["input_ids"])
    return ids, [-100] * n + ids[n:]


def batch_loss(model, encoded):
    longest = max(len(ids) for ids, _ in encoded)
    pad = model.config.pad_token_id
    ids = torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in encoded])
    labels = torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in encoded])
    return model(input_ids=ids, labels=labels, attention_mask=(torch.arange(longest)[None] <
                 torch.tensor([len(i) for i, _ in encoded])[:, None]).long()).loss


def answer(model, tokenizer, sample):
    prompt = " ".join(s for s in (sample["context"], sample["question"]) if s) + " "
    ids = tokenizer(prompt, return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=12, do_sample=False)
    return tokenizer.decode(out[0, ids["input_ids"].shape[1]:], skip_special_tokens=True)


def check(directory, steps, batch, lr):
    """What the quickstart job does, in torch."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(os.path.join(directory, "tiny-llama"))
    model = LlamaForCausalLM.from_pretrained(os.path.join(directory, "tiny-llama"), dtype=torch.float32)
    train, valid = ([json.loads(line) for line in open(os.path.join(directory, f"instruct-{part}.jsonl"))]
                    for part in ("train", "valid"))
    encoded = [encode(tokenizer, s) for s in train]
    held_out = [encode(tokenizer, s) for s in valid]
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    order = random.Random(1)

    def report(when):
        with torch.no_grad():
            loss = batch_loss(model, held_out).item()
        answers = [answer(model, tokenizer, s) for s in valid]
        right = sum(a == s["answer"] for a, s in zip(answers, valid))
        print(f"{when}: validation loss {loss:.3f}, {right} of {len(valid)} answered rightly; "
              f"{valid[0]['question']!r} -> {answers[0]!r}")

    report("before")
    start = time.time()
    for step in range(steps):
        for group in optimizer.param_groups:
            p = max(0, step - 10) / (steps - 10)
            group["lr"] = lr * (step + 1) / 10 if step < 10 else lr * (1 + math.cos(math.pi * p)) / 2
        if step * batch % len(encoded) < batch:
            order.shuffle(encoded)
        at = step * batch % len(encoded)
        loss = batch_loss(model, encoded[at:at + batch])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 10 == 0 or step == steps - 1:
            print(f"  step {step + 1}: loss {loss.item():.3f}")
    print(f"  {time.time() - start:.0f} s")
    report("after")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default=os.path.dirname(os.path.abspath(__file__)))
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--check", action="store_true", help="only imitate the quickstart job on what is there")
    parser.add_argument("--data", action="store_true", help="only make the instruction data")
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.check:
        for part, samples in zip(("train", "valid"), instruction_data(options.seed)):
            with open(os.path.join(options.out, f"instruct-{part}.jsonl"), "w") as file:
                file.writelines(json.dumps(sample) + "\n" for sample in samples)
        if options.data:
            return
        tokenizer = make_tokenizer(options.seed, 1000)
        model = new_model(tokenizer, options.seed)
        print(f"{len(tokenizer)} tokens, {model.num_parameters()} parameters")
        pretrain(model, tokenizer, options.seed, options.minutes)
        directory = os.path.join(options.out, "tiny-llama")
        model.to(torch.bfloat16).save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    check(options.out, options.steps, options.batch, options.lr)


main()
