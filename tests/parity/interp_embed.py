#!/usr/bin/env python3
"""Compares `saequel diff` with interp_embed's own `diff_features` on datasets that interp_embed itself writes.

    git clone https://github.com/nickjiang2378/interp_embed
    pip install numpy scipy pandas pyarrow tqdm pydantic openai
    python tests/parity/interp_embed.py --interp-embed interp_embed --saequel target/debug/saequel

Two datasets are made by `interp_embed.Dataset`, saved by its `save_to_file`, converted by
`examples/interp_embed_to_parquet.py`, imported, and compared: frequencies in both and their difference, of every feature,
to 1e-6. Only what would need a GPU or a network is replaced: the modules torch, transformers, sae_lens,
transformer_lens, goodfire, dotenv and huggingface_hub are empty stand-ins, and the SAE is one of random sparse activations behind interp_embed's own
`BaseSAE`. Also tried: a document that could not be encoded, and a pickle that would run a program.

`diff_features` is in the examples of its repository, not in its package (`pip install --no-deps interp-embed`). Without a
checkout the installed package is tried, and the frequencies are those of its `latents("binarize")`, which `diff_features`
averages.
"""
import argparse
import csv
import io
import os
import pickle
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import numpy as np

WIDTH = 512
TOLERANCE = 1e-6
HERE = Path(__file__).resolve().parent


def stand_in(name, **content):
    module = types.ModuleType(name)
    module.__dict__.update(content)
    sys.modules[name] = module
    return module


def without_gpu():
    """Stand-ins for what interp_embed imports and this comparison does not use."""
    nothing = lambda *args, **kwargs: None
    cuda = types.SimpleNamespace(empty_cache=nothing)
    stand_in("torch", cuda=cuda, no_grad=lambda: (lambda function: function), load=nothing)
    stand_in("transformers", AutoTokenizer=None, AutoModelForCausalLM=None, BitsAndBytesConfig=None)
    stand_in("sae_lens", SAE=None)
    stand_in("transformer_lens", HookedTransformer=None)
    stand_in("huggingface_hub", hf_hub_download=nothing)
    stand_in("dotenv", load_dotenv=nothing)
    for name in ("goodfire", "goodfire.api", "goodfire.api.features"):
        stand_in(name, Variant=None)
    stand_in("goodfire.api.features.client", AsyncFeaturesAPI=None)


def make_sae(seed):
    try:
        from interp_embed.sae.base_sae import BaseSAE, SAEType
    except ImportError:  # Version 0.1.0, the one that pip installs.
        from interp_embed.saes.base_sae import BaseSAE, SAEType
    from scipy.sparse import csr_matrix

    class Tokenizer:
        chat_template = None

        def __call__(self, texts, **kwargs):
            return {"input_ids": [[hash_of(word) for word in text.split()] for text in texts]}

        def decode(self, ids):
            return str(ids[0])

    def hash_of(word):
        return sum(ord(letter) * 31**at for at, letter in enumerate(word)) % 10_007

    class RandomSae(BaseSAE):
        """Every word has latents of its own; a word of the second group has some more."""

        def metadata(self):
            return {**super().metadata(), "sae_type": SAEType.LOCAL, "sae_id": "random", "release": "none"}

        def load_models(self):
            self.tokenizer = Tokenizer()
            self.load_feature_labels()  # Version 0.1.0 asks for labels here.

        def destroy_models(self):
            self.tokenizer = None

        def load_feature_labels(self):
            self._feature_labels = {str(latent): f"concept {latent}" for latent in range(0, WIDTH, 2)}

        def encode(self, texts):
            if any("unreadable" in text for text in texts):
                raise ValueError("a text that cannot be encoded")
            encoded = []
            for text in texts:
                rows = np.zeros((len(text.split()), WIDTH), np.float32)
                for at, word in enumerate(text.split()):
                    rng = np.random.default_rng(hash_of(word) + seed)
                    rows[at, rng.integers(0, WIDTH, 6)] = rng.gamma(2.0, 1.0, 6)
                encoded.append(csr_matrix(rows))
            return encoded

    return RandomSae()


def texts(n, group, rng):
    words = [f"word{i}" for i in range(200)]
    often = words[:20] if group == "a" else words[20:40]
    return [" ".join(list(rng.choice(words, 8)) + list(rng.choice(often, 4))) for _ in range(n)]


def binarized(a, b):
    """What `diff_features` says, from the package alone."""
    import pandas as pd

    shares = [np.mean(dataset.latents("binarize"), axis=0) for dataset in (a, b)]
    labels = [a.feature_labels().get(latent, "") for latent in range(WIDTH)]
    return pd.DataFrame({"feature_id": range(WIDTH), "feature": labels, a.id: shares[0], b.id: shares[1],
                         "frequency_difference": shares[0] - shares[1]})


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interp-embed", type=Path, help="a checkout of interp_embed; else the installed package")
    parser.add_argument("--saequel", type=Path, default=HERE.parent.parent / "target/debug/saequel")
    args = parser.parse_args()

    without_gpu()
    # This file has the name of the package.
    sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]
    if args.interp_embed:
        sys.path[:0] = [str(args.interp_embed), str(args.interp_embed / "examples")]
    import pandas as pd
    from interp_embed import Dataset
    if args.interp_embed:
        from functions import diff_features
    else:
        diff_features = binarized

    converter = HERE.parent.parent / "examples/interp_embed_to_parquet.py"
    rng = np.random.default_rng(5)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        db = folder / "db"
        datasets = {}
        for group, n in (("a", 300), ("b", 200)):
            frame = pd.DataFrame({"text": texts(n, group, rng), "source": group, "number": range(n)})
            dataset = datasets[group] = Dataset(frame, sae=make_sae(1), batch_size=16)
            dataset.save_to_file(str(folder / f"{group}.pkl"))
            said = run(sys.executable, converter, folder / f"{group}.pkl", folder / f"{group}.parquet")
            assert f"{n} documents of {WIDTH} features, 0 of them without" in said, said
            run(args.saequel, "import", folder / f"{group}.parquet", "--corpus", group, "--db", db, "--text", "text",
                "--features", "features", "--activations", "activations", "--dictionary", "random",
                "--width", WIDTH, "--labels", folder / f"{group}.labels.csv", "--made-by", "interp_embed")

        query = ("SELECT feature_id, label, frequency_a, frequency_b, difference FROM diff(a, b, dictionary => 'random', "
                 "fold => false, min_docs => 1, include_hidden => true, limit => 1000000)")
        ours = list(csv.DictReader(io.StringIO(run(args.saequel, "sql", "--db", db, "--format", "csv", query))))
        first = int(run(args.saequel, "sql", "--db", db, "--format", "csv",
                        "SELECT first_feature_id FROM saequel.saes WHERE name = 'random'").split()[1])
        theirs = diff_features(datasets["a"], datasets["b"]).set_index("feature_id")
        a, b = datasets["a"].id, datasets["b"].id
        worst, seen = 0.0, set()
        for row in ours:
            latent = int(row["feature_id"]) - first
            seen.add(latent)
            their = theirs.loc[latent]
            for own, other in (("frequency_a", a), ("frequency_b", b), ("difference", "frequency_difference")):
                worst = max(worst, abs(float(row[own]) - float(their[other])))
            assert latent % 2 == 1 or row["label"] == their["feature"] == f"concept {latent}", (row, their)
        left_out = theirs.drop(index=sorted(seen))
        assert (left_out[[a, b]] == 0).all().all(), f"features that differ are missing:\n{left_out}"
        assert worst <= TOLERANCE, f"largest difference {worst}"
        print(f"{'diff_features' if args.interp_embed else 'frequencies'}: {len(ours)} features of {WIDTH} "
              f"(the others are in no document), largest difference {worst:.1e}")

        # Strongest activations, as the dataset pools them.
        stored = run(args.saequel, "sql", "--db", db, "--format", "csv",
                     "SELECT doc_id, feature_id, activation FROM a_activations")
        pooled = datasets["a"].latents("max")
        n, worst = 0, 0.0
        for row in csv.DictReader(io.StringIO(stored)):
            want = pooled[int(row["doc_id"]), int(row["feature_id"]) - first]
            worst = max(worst, abs(float(row["activation"]) - want) / want)
            n += 1
        assert n == np.count_nonzero(pooled > 0) and worst < 1e-3, (n, np.count_nonzero(pooled > 0), worst)
        print(f"latents('max'): {n} activations, largest relative difference {worst:.1e} (stored in half precision)")

        # A document that could not be encoded has no features, and is not one without any.
        frame = pd.DataFrame({"text": ["word1 word2", "unreadable", "word3"]})
        Dataset(frame, sae=make_sae(1), batch_size=1).save_to_file(str(folder / "torn.pkl"))
        said = run(sys.executable, converter, folder / "torn.pkl", folder / "torn.parquet")
        assert "3 documents" in said and "1 of them without" in said, said
        run(args.saequel, "import", folder / "torn.parquet", "--corpus", "torn", "--db", db, "--text", "text",
            "--features", "features", "--activations", "activations", "--dictionary", "random")
        said = run(args.saequel, "sql", "--db", db, "--format", "csv", "SELECT count(*), count(features) FROM torn")
        assert said.split()[1] == "3,2", said

        # A pickle that would run a program is refused, and does not run it.
        class Evil:
            def __reduce__(self):
                return os.mkdir, (str(folder / "ran"),)

        (folder / "evil.pkl").write_bytes(pickle.dumps({"dataset": Evil()}))
        done = subprocess.run([sys.executable, converter, folder / "evil.pkl", folder / "evil.parquet"],
                              capture_output=True, text=True)
        assert done.returncode != 0 and "was not run" in done.stderr and not (folder / "ran").exists(), done.stderr
        print("ok: torn datasets and hostile pickles too")


if __name__ == "__main__":
    main()
