"""Writes reference.jsonl: embeddings of varied texts by sentence-transformers, to which saequel's reader is compared.

    pip install torch sentence-transformers
    python tests/parity/make_reference.py [MODEL]
    python tests/parity/make_reference.py --check --saequel target/debug/saequel [MODEL]

With --check nothing is written: the stored reference must be what sentence-transformers says today, and the embeddings
that the program stores of the same texts must agree with both (cosine of at least 0.9999; all in half precision).

MODEL is a name or folder of all-MiniLM-L6-v2. Texts of up to 254 tokens are embedded by `SentenceTransformer.encode`.
sentence-transformers cuts longer ones after 254 tokens; saequel reads them whole, in windows of 254 tokens that overlap by
32, and takes the mean over all tokens and the special tokens of every window, where a token in two windows counts in the
one that sees more around it. For these the reference does the same with the same PyTorch model, after checking that its
first window alone is what sentence-transformers gives.

Each line: text, n_tokens (special tokens excluded), embedding (384 float16, little-endian, in hexadecimal).
"""

import argparse
import json
import pathlib
import random
import subprocess
import tempfile

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

CAPACITY, OVERLAP = 254, 32
REFERENCE = pathlib.Path(__file__).with_name("reference.jsonl")

SHORT = [
    "", " ", "\n\n\t", ".", "...", "?!", "a", "I", "42", "-1.5e-10", "\u200b", "\u00a0", "\x00", "\x07\x1b[0m",
    "\ufffd\ufffd", "[CLS] [SEP] [MASK] [PAD] [UNK]", "<|endoftext|>", "Hello, world!", "hello world", "HELLO WORLD",
    "I'm sorry, but I can't help with that.", "Sure! Here are three ideas:\n\n1. Walk\n2. Read\n3. Sleep",
    "We apologise for the delay and any inconvenience caused.", "It might perhaps be possible, although I am not certain.",
    "WOW!!! This is the BEST day EVER!!!", "As an AI language model, I do not have personal opinions.",
    "😀", "😀😃😄😁 great job 👍🏽👩‍👩‍👧‍👦", "🇩🇪🇯🇵🏳️‍🌈", "¯\\_(ツ)_/¯", "(╯°□°)╯︵ ┻━┻", "<3 :-) ;P",
    "今天天气很好，我们去公园散步吧。", "機械学習は面白いです。", "안녕하세요, 만나서 반갑습니다.", "Привет, как дела?",
    "Ich hätte gern ein Stück Käsekuchen, bitte.", "¿Dónde está la biblioteca?", "Où est-ce que tu habites ?",
    "مرحبا بالعالم", "שלום עולם", "नमस्ते दुनिया", "สวัสดีชาวโลก", "Γειά σου Κόσμε", "Xin chào thế giới",
    "Zażółć gęślą jaźń", "Flygande bäckasiner söka hwila på mjuka tuvor", "naïve café résumé coöperate",
    "nai\u0308ve cafe\u0301 (decomposed)", "ﬁne ﬂow oﬃce ligatures", "Ⅷ ½ ² ₃ ℃ №", "𝕳𝖊𝖑𝖑𝖔 𝓌ℴ𝓇𝓁𝒹", "ＦＵＬＬ ｗｉｄｔｈ",
    "İstanbul'da ılık bir gün", "ẞtraße STRASSE straße", "a\u0301\u0302\u0303\u0304\u0305 stacked accents",
    "fn main() {\n    println!(\"{}\", 1 + 1);\n}", "def f(x):\n\treturn [y ** 2 for y in x if y % 2 == 0]",
    "SELECT model, count(*) FROM answers WHERE score >= 0.5 GROUP BY 1 ORDER BY 2 DESC;",
    "<html><body><h1>Title</h1><p>Text &amp; more</p></body></html>", "{\"key\": [1, 2, {\"nested\": null}], \"x\": true}",
    "for (int i = 0; i < n; ++i) { a[i] = b[i] * c; }", "#!/bin/sh\nset -eu\ngrep -rn 'TODO' . | sort | uniq -c",
    "\\int_0^\\infty e^{-x^2} dx = \\frac{\\sqrt{\\pi}}{2}", "x² + y² = r²", "1234567890 0987654321", "3.14159 2.71828 1.41421",
    "2024-02-29T23:59:59Z", "+1 (555) 010-9999", "https://example.org/a/b?c=d&e=f#g", "user.name+tag@example.com",
    "C:\\Users\\name\\file.txt", "/usr/local/bin/python3.11", "550e8400-e29b-41d4-a716-446655440000",
    "antidisestablishmentarianism", "Donaudampfschifffahrtsgesellschaftskapitän", "x" * 99, "x" * 100, "x" * 101, "x" * 5000,
    "aaaa bbbb " * 20, "!" * 250, "- one\n- two\n- three\n  - three and a half\n- four", "| a | b |\n|---|---|\n| 1 | 2 |",
    "**bold** _italic_ `code` ~~gone~~ [link](http://a.b)", "# Heading\n\nA paragraph.\n\n> A quotation.",
    "The quick brown fox jumps over the lazy dog.", "the quick brown fox jumps over the lazy dog",
    "To be, or not to be, that is the question.", "Buffalo buffalo Buffalo buffalo buffalo buffalo Buffalo buffalo.",
    "A man is eating food.", "A man is eating a piece of bread.", "A cheetah chases its prey across the savannah.",
    "The bank raised its rates.", "We sat on the bank of the river.", "The trial lasted for three weeks.",
    "Mix the flour, sugar and butter; bake for 25 minutes at 180 °C.", "Take two tablets daily after meals.",
    "The defendant shall pay the plaintiff within thirty (30) days.", "lol idk u tell me m8", "ok", "OK.", "no", "Why?",
    "He said, “It’s—well—complicated…”", "don't won't can't shouldn't've y'all'd've", "e.g. i.e. etc. vs. U.S.A. Ph.D.",
    "rock-n-roll state-of-the-art mother-in-law", "tab\tseparated\tvalues", "trailing spaces   ", "   leading spaces",
    "line one\r\nline two\r\nline three", "ALL CAPS WITH 123 NUMBERS", "MiXeD cAsE tExT", "soft\u00adhyphen", "zero\u200dwidth",
]

NOUNS = "river teacher engine garden letter window doctor kitchen village market song winter bridge paper island".split()
VERBS = "carries watches builds follows remembers paints answers crosses repairs forgets measures opens".split()
OTHERS = "quietly often never gladly slowly yesterday tomorrow together almost perhaps certainly again".split()


def prose(words: int, seed: int) -> str:
    """Sentences of seeded random words."""
    rng = random.Random(seed)
    out: list[str] = []
    while len(out) < words:
        sentence = ["The", rng.choice(NOUNS), rng.choice(VERBS), "the", rng.choice(NOUNS), rng.choice(OTHERS)]
        if rng.random() < 0.4:
            sentence += ["and", rng.choice(VERBS), "a", rng.choice(NOUNS)]
        sentence[-1] += rng.choice([".", ".", ".", "!", "?", ".\n\n"])
        out += sentence
    return " ".join(out[:words])


LONG = [
    prose(120, 1), prose(200, 2), prose(230, 3), prose(250, 4), prose(300, 5), prose(450, 6), prose(700, 7), prose(1500, 8),
    prose(5000, 9), "今天天气很好，我们去公园散步吧。" * 40, "let x = x + 1; // next\n" * 90, "😀 " * 300, "word " * 254, "word " * 255,
    "word " * 476, "word " * 477,
]


def windows(n: int) -> list[tuple[int, int, int, int]]:
    """(first read, end read, first owned, end owned) of each window over n tokens."""
    stride, result, start = CAPACITY - OVERLAP, [], 0
    while True:
        last = start + CAPACITY >= n
        own_start = 0 if start == 0 else start + OVERLAP // 2
        own_end = n if last else start + stride + OVERLAP // 2
        result.append((start, min(start + CAPACITY, n), own_start, own_end))
        if last:
            return result
        start += stride


def embed(name: str) -> list[tuple[str, int, np.ndarray]]:
    """Text, tokens and embedding of length 1, by sentence-transformers."""
    model = SentenceTransformer(name, device="cpu")
    model.max_seq_length = CAPACITY + 2
    bert, tokenizer = model[0].auto_model.eval(), model.tokenizer

    def states(ids: list[int]) -> np.ndarray:
        ids = [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]
        with torch.no_grad():
            return bert(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long)).last_hidden_state[0].double().numpy()

    embedded = []
    for text in SHORT + LONG:
        ids = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        # Special tokens written in a text are special tokens to this tokenizer, as they are to saequel's.
        encoded = model.encode([text], convert_to_numpy=True)[0].astype(np.float64)
        if len(ids) <= CAPACITY:
            embedding = encoded
        else:
            total, count = np.zeros(encoded.shape), 0
            for number, (start, end, own_start, own_end) in enumerate(windows(len(ids))):
                hidden = states(ids[start:end])
                if number == 0:
                    assert unit(hidden.mean(0)) @ unit(encoded) > 0.999999, text[:40]
                total += hidden[0] + hidden[-1] + hidden[1 + own_start - start:1 + own_end - start].sum(0)
                count += 2 + own_end - own_start
            embedding = total / count
        embedded.append((text, len(ids), unit(embedding)))
    return embedded


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def check(embedded: list[tuple[str, int, np.ndarray]], program: str) -> None:
    stored = [json.loads(line) for line in REFERENCE.read_text(encoding="ascii").splitlines()]
    assert [line["text"] for line in stored] == [text for text, _, _ in embedded], "the texts are others: write it anew"
    with tempfile.TemporaryDirectory() as folder:
        texts, db = pathlib.Path(folder) / "texts.jsonl", pathlib.Path(folder) / "db"
        texts.write_text("".join(json.dumps({"n": n, "text": line["text"]}) + "\n" for n, line in enumerate(stored)))
        run = lambda *arguments: subprocess.run([program, "--db", db, "--quiet", *arguments], check=True,  # noqa: E731
                                                stdout=subprocess.PIPE, text=True).stdout
        run("import", texts, "--corpus", "texts", "--text", "text", "--key", "n")
        answer = run("sql", "--format", "jsonl",
                     "SELECT doc_id, _n_tokens AS n_tokens, _embedding AS embedding FROM stored.texts")
    ours = {int(row["doc_id"]): row for row in map(json.loads, answer.splitlines())}
    worst = {"the stored reference": 1.0, "the program": 1.0}
    for number, (line, (text, n_tokens, embedding)) in enumerate(zip(stored, embedded)):
        assert line["n_tokens"] == n_tokens == ours[number]["n_tokens"], f"tokens of {text[:40]!r}"
        kept = np.frombuffer(bytes.fromhex(line["embedding"]), "<f2").astype(np.float64)
        own = ours[number]["embedding"]
        # A text without a token has no embedding: that of the special tokens alone would be near everything.
        assert (own is None) == (n_tokens == 0), f"embedding of {text[:40]!r}"
        others = [("the stored reference", kept)] + [("the program", np.array(own, np.float64))] * (own is not None)
        for name, other in others:
            cosine = float(unit(other) @ embedding)
            assert cosine >= 0.9999, f"cosine {cosine} of {name} for {text[:40]!r}"
            worst[name] = min(worst[name], cosine)
    assert len(ours) == len(stored), f"{len(ours)} documents of {len(stored)}"
    print(f"{len(stored)} texts, 1 - cosine at most: "
          + ", ".join(f"{name} {1 - cosine:.1e}" for name, cosine in worst.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="sentence-transformers/all-MiniLM-L6-v2", metavar="MODEL")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--saequel", default="saequel", help="the program, for --check")
    arguments = parser.parse_args()
    embedded = embed(arguments.model)
    if arguments.check:
        return check(embedded, arguments.saequel)
    lines = []
    for text, n_tokens, embedding in embedded:
        packed = embedding.astype("<f2").tobytes().hex()
        lines.append(json.dumps({"text": text, "n_tokens": n_tokens, "embedding": packed}))
    REFERENCE.write_text("\n".join(lines) + "\n", encoding="ascii")
    print(f"{len(lines)} texts in {REFERENCE}")


if __name__ == "__main__":
    main()
