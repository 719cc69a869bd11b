"""Readers against transformers: states at every hook point of tiny random models of each family.

    python tests/parity/readers.py [--only NAME] [--states PATH] [--gguf FILE] [--fixture DIR]

Needs torch (CPU), transformers, safetensors, numpy; for --gguf also gguf. PATH is the example `states` of the encoder
(`cargo build -p saequel-encoder --example states`). Each model is made with a fixed seed, saved as a folder, and read in
packed windows of different lengths, some longer than its sliding window. transformers reads each window alone, without
padding, with hooks on its modules. Printed is the largest error of each hook point relative to the largest value there;
the limit is 1e-4. --fixture writes the small model and the states that the quick tests compare with.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

LENGTHS = [1, 5, 17, 40]
VOCAB = 96
LIMIT = 1e-4

LLAMA = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)
BERT = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
    max_position_embeddings=128, pad_token_id=1, bos_token_id=0, eos_token_id=2,
)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32, rope_theta=500.0)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, rope_theta=10000.0)
LONG = dict(rope_type="longrope", short_factor=[1.0, 1.1, 1.3, 2.0], long_factor=[2.0, 3.0, 4.0, 5.0],
            original_max_position_embeddings=48, rope_theta=10000.0)

# Name: configuration class, model class, settings.
FAMILIES = {
    "gpt2": ("GPT2Config", "GPT2LMHeadModel",
             dict(vocab_size=VOCAB, n_embd=32, n_layer=3, n_head=4, n_positions=128)),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM",
                 dict(LLAMA, use_parallel_residual=True, rotary_pct=0.25, hidden_act="gelu", num_key_value_heads=None)),
    "gpt_neox sequential": ("GPTNeoXConfig", "GPTNeoXForCausalLM",
                            dict(LLAMA, use_parallel_residual=False, rotary_pct=1.0, num_key_value_heads=None)),
    "llama2": ("LlamaConfig", "LlamaForCausalLM", dict(LLAMA, num_key_value_heads=4)),
    "llama3": ("LlamaConfig", "LlamaForCausalLM", dict(LLAMA, rope_parameters=LLAMA3)),
    "llama3 sharded bf16": ("LlamaConfig", "LlamaForCausalLM", dict(LLAMA, rope_parameters=LLAMA3)),
    "llama linear f16": ("LlamaConfig", "LlamaModel",
                         dict(LLAMA, rope_parameters=dict(rope_type="linear", factor=2.0, rope_theta=10000.0))),
    "llama yarn": ("LlamaConfig", "LlamaForCausalLM", dict(LLAMA, rope_parameters=YARN)),
    "mistral": ("MistralConfig", "MistralForCausalLM", dict(LLAMA, sliding_window=7, head_dim=16)),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", dict(LLAMA)),
    "qwen2 sliding": ("Qwen2Config", "Qwen2ForCausalLM",
                      dict(LLAMA, use_sliding_window=True, sliding_window=7, max_window_layers=1)),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", dict(LLAMA, head_dim=16)),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", dict(LLAMA, head_dim=16)),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM",
               dict(LLAMA, head_dim=16, query_pre_attn_scalar=24, sliding_window=7, attn_logit_softcapping=2.0)),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM",
               dict(LLAMA, num_hidden_layers=7, head_dim=16, query_pre_attn_scalar=24, sliding_window=7)),
    "phi": ("PhiConfig", "PhiForCausalLM", dict(LLAMA, num_key_value_heads=4, partial_rotary_factor=0.5)),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", dict(LLAMA, sliding_window=7)),
    "phi3 longrope": ("Phi3Config", "Phi3ForCausalLM",
                      dict(LLAMA, rope_parameters=LONG, original_max_position_embeddings=48)),
    "bert": ("BertConfig", "BertModel", dict(BERT, pad_token_id=0)),
    "bert relu": ("BertConfig", "BertForMaskedLM", dict(BERT, pad_token_id=0, hidden_act="relu")),
    "distilbert": ("DistilBertConfig", "DistilBertModel",
                   dict(vocab_size=VOCAB, dim=32, hidden_dim=48, n_layers=3, n_heads=4, max_position_embeddings=128)),
    "roberta": ("RobertaConfig", "RobertaModel", dict(BERT, max_position_embeddings=130)),
    "xlm-roberta": ("XLMRobertaConfig", "XLMRobertaForMaskedLM", dict(BERT, max_position_embeddings=130)),
    "mpnet": ("MPNetConfig", "MPNetModel", dict(BERT, max_position_embeddings=130)),
    "modernbert": ("ModernBertConfig", "ModernBertModel",
                   dict(BERT, num_hidden_layers=4, local_attention=8, cls_token_id=3, sep_token_id=4)),
    "nomic_bert": ("NomicBertConfig", "NomicBertModel", dict(BERT, pad_token_id=0)),
}

# Modules of a block, for each order of block: what our hook points are called there.
SITES = {
    # site: (module, input or output)
    "decoder": {"heads": ("self_attn.o_proj", "in"), "attention": ("self_attn", "out"), "mlp-in": ("mlp", "in"),
                "mlp": ("mlp", "out")},
    "gemma2": {"heads": ("self_attn.o_proj", "in"), "attention": ("post_attention_layernorm", "out"),
               "mlp-in": ("mlp", "in"), "mlp": ("post_feedforward_layernorm", "out"),
               "middle": ("pre_feedforward_layernorm", "in")},
    "gpt2": {"heads": ("attn.c_proj", "in"), "attention": ("attn", "out"), "middle": ("ln_2", "in"),
             "mlp-in": ("mlp", "in"), "mlp": ("mlp", "out")},
    "neox": {"heads": ("attention.dense", "in"), "attention": ("attention", "out"), "mlp-in": ("mlp", "in"),
             "mlp": ("mlp", "out")},
    "phi": {"heads": ("self_attn.dense", "in"), "attention": ("self_attn", "out"), "mlp-in": ("mlp", "in"),
            "mlp": ("mlp", "out")},
    "bert": {"heads": ("attention.output.dense", "in"), "attention": ("attention.output.dense", "out"),
             "middle": ("attention.output", "out"), "mlp-in": ("intermediate.dense", "in"), "mlp": ("output.dense", "out")},
    "distilbert": {"heads": ("attention.out_lin", "in"), "attention": ("attention.out_lin", "out"),
                   "middle": ("sa_layer_norm", "out"), "mlp-in": ("ffn", "in"), "mlp": ("ffn", "out")},
    "mpnet": {"heads": ("attention.attn.o", "in"), "attention": ("attention.attn.o", "out"),
              "middle": ("attention.LayerNorm", "out"), "mlp-in": ("intermediate.dense", "in"), "mlp": ("output.dense", "out")},
    "modernbert": {"heads": ("attn.Wo", "in"), "attention": ("attn", "out"), "middle": ("mlp_norm", "in"),
                   "mlp-in": ("mlp", "in"), "mlp": ("mlp", "out")},
}


def kind(name):
    for known, of in [("gpt2", "gpt2"), ("gpt_neox", "neox"), ("gemma2", "gemma2"), ("gemma3", "gemma2"), ("phi3", "decoder"),
                      ("phi", "phi"), ("bert", "bert"), ("distilbert", "distilbert"), ("roberta", "bert"),
                      ("xlm", "bert"), ("mpnet", "mpnet"), ("modernbert", "modernbert"), ("nomic", "nomic")]:
        if name.startswith(known):
            return of
    return "decoder"


def blocks_of(model):
    """The list of blocks, wherever the model keeps it."""
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return max(lists, key=len)


def tokenizer(folder):
    """A tokenizer of one-letter words: the folder needs one, the comparison does not use it."""
    from tokenizers import Tokenizer, models
    vocabulary = {"[UNK]": 0, **{chr(33 + i): i + 1 for i in range(VOCAB - 2)}}
    Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]")).save(str(folder / "tokenizer.json"))


def shake(model):
    """Random norms and biases: those of a new model are ones and zeros, and would hide mistakes."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.3 if parameter.dim() == 1 else 0.15
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)


def first(value):
    return value[0] if isinstance(value, tuple) else value


def reference(model, sites, windows, middle_by_sum):
    """States of each window, read alone."""
    blocks = blocks_of(model)
    taken = {}

    def keep(key, value):
        taken.setdefault(key, []).append(first(value).detach().reshape(-1, first(value).shape[-1]).float().numpy())

    handles = []
    for i, block in enumerate(blocks):
        for site, (module, side) in sites.items():
            target = block.get_submodule(module)
            if side == "in":
                handles.append(target.register_forward_pre_hook(
                    lambda _, args, kwargs, key=f"{site}.{i}": keep(key, args[0] if args else next(iter(kwargs.values()))),
                    with_kwargs=True))
            else:
                handles.append(target.register_forward_hook(lambda _, args, out, key=f"{site}.{i}": keep(key, out)))
        handles.append(block.register_forward_pre_hook(
            lambda _, args, kwargs, key=f"residual.{i}": keep(key, args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True))
        handles.append(block.register_forward_hook(
            lambda _, args, out, key=f"residual.{i + 1}": keep(key, out) if int(key.split(".")[1]) == len(blocks) else None))
    finals = []
    for window in windows:
        with torch.no_grad():
            inner = getattr(model, "base_model", model)
            out = inner(input_ids=torch.tensor([window]))
        finals.append(out.last_hidden_state[0].float().numpy())
    for handle in handles:
        handle.remove()
    states = {key: np.concatenate(values) for key, values in taken.items()}
    states["final"] = np.concatenate(finals)
    if middle_by_sum:
        for i in range(len(blocks)):
            states[f"middle.{i}"] = states[f"residual.{i}"] + states[f"attention.{i}"]
    return states


def ours(program, folder, request):
    with tempfile.TemporaryDirectory() as place:
        asked, out = Path(place) / "request.json", Path(place) / "out.safetensors"
        asked.write_text(json.dumps(request))
        done = subprocess.run([program, str(folder), str(asked), str(out)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
        return load_file(out)


def compare(want, got):
    """Largest error by site, relative to the largest value of the hook point."""
    errors = {}
    for hook, values in want.items():
        assert values.shape == got[hook].shape, f"{hook}: {values.shape} and {got[hook].shape}"
        error = np.abs(values - got[hook]).max() / np.abs(values).max()
        site = hook.split(".")[0]
        errors[site] = max(errors.get(site, 0.0), float(error))
    return errors


def run(name, program):
    config_class, model_class, settings = FAMILIES[name]
    if not hasattr(transformers, config_class):
        return None
    torch.manual_seed(1)
    config = getattr(transformers, config_class)(**{k: v for k, v in settings.items() if v is not None})
    config._attn_implementation = "eager"
    model = getattr(transformers, model_class)(config).eval()
    shake(model)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if "bf16" in name or "f16" in name:
            dtype = torch.bfloat16 if "bf16" in name else torch.float16
            model.to(dtype).save_pretrained(folder, max_shard_size="20KB" if "sharded" in name else "1GB")
            # As saved; a model that was cast keeps its rotary frequencies in the smaller type.
            model = getattr(transformers, model_class).from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager").eval()
        else:
            model.save_pretrained(folder)
        tokenizer(folder)
        random = np.random.default_rng(3)
        windows = [random.integers(5, VOCAB, n).tolist() for n in LENGTHS]
        of = kind(name)
        if of == "nomic":
            sites = nomic_sites(model)
        else:
            sites = SITES[of]
        want = reference(model, sites, windows, of == "decoder")
        if name == "gpt_neox sequential":
            for i in range(3):
                want[f"middle.{i}"] = want[f"residual.{i}"] + want[f"attention.{i}"]
        got = ours(program, folder, {"windows": windows, "hooks": sorted(want)})
    return compare(want, got)


def nomic_sites(model):
    names = [name for name, _ in blocks_of(model)[0].named_modules()]
    pick = lambda *choices: next((c for c in choices if c in names), None)
    out = pick("attn.out_proj", "self_attn.o_proj", "attention.o_proj")
    mlp = pick("mlp")
    return {"heads": (out, "in"), "attention": (out, "out"), "mlp-in": (mlp, "in"), "mlp": (mlp, "out")}


def run_gguf(path, program):
    """A GGUF file: transformers dequantises it; the text is tokenized by both."""
    path = Path(path)
    text = "The cat sat on the mat.\n\n  It's 3.14, isn't it? <b>Ünïcödé</b> 🙂\tdone   now"
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager").eval()
    token = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    ids = token(text)["input_ids"]
    sites = SITES[kind(model.config.model_type)]
    n = len(blocks_of(model))
    hooks = [f"{site}.{i}" for site in sites for i in (0, n // 2, n - 1)] + [f"residual.{i}" for i in (0, 1, n // 2, n)]
    got = ours(program, path, {"text": text, "hooks": hooks + ["final"]})
    same = got["ids"].tolist() == ids
    print(f"tokens {'agree' if same else 'differ'}: {len(ids)}")
    if not same:
        print(ids, got["ids"].tolist())
    want = reference(model, sites, [got["ids"].tolist()], False)
    return compare({hook: want[hook] for hook in hooks + ["final"]}, got)


def fixture(folder):
    """A Gemma 3 of two blocks, one with a sliding window, its states, and a tokenizer that puts <bos> first."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    config = transformers.Gemma3TextConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, query_pre_attn_scalar=8, sliding_window=7, max_position_embeddings=128,
        layer_types=["sliding_attention", "full_attention"], pad_token_id=0, bos_token_id=1, eos_token_id=2)
    config._attn_implementation = "eager"
    model = transformers.Gemma3ForCausalLM(config).eval()
    shake(model)
    model.to(torch.bfloat16).save_pretrained(folder)
    model = transformers.Gemma3ForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()
    (folder / "generation_config.json").unlink(missing_ok=True)
    vocabulary = {"<unk>": 0, "<bos>": 1, "<eos>": 2, **{chr(65 + i): i + 3 for i in range(58)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.add_special_tokens(["<unk>", "<bos>", "<eos>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    windows = [[1, 5, 9], [1, *range(10, 40)]]
    states = reference(model, SITES["gemma2"], windows, False)
    keep = ["residual.0", "heads.0", "mlp.1", "residual.2", "final"]
    request = {"windows": windows, "states": {hook: [[round(float(x), 5) for x in row[:4]] for row in states[hook]] for hook in keep}}
    (folder / "expected.json").write_text(json.dumps(request) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only")
    parser.add_argument("--states", default="target/debug/examples/states")
    parser.add_argument("--gguf")
    parser.add_argument("--fixture", type=Path)
    arguments = parser.parse_args()
    if arguments.fixture:
        return fixture(arguments.fixture)
    columns = ["residual", "heads", "attention", "middle", "mlp-in", "mlp", "final"]
    print(f"{'family':22}" + "".join(f"{column:>11}" for column in columns))
    failed = []
    runs = {Path(arguments.gguf).name[:22]: lambda: run_gguf(arguments.gguf, arguments.states)} if arguments.gguf else {
        name: (lambda name=name: run(name, arguments.states))
        for name in FAMILIES if arguments.only in (None, name)}
    for name, call in runs.items():
        try:
            errors = call()
        except Exception as error:  # a family that fails must not hide the others
            print(f"{name:22} {type(error).__name__}: {error}")
            failed.append(name)
            continue
        if errors is None:
            print(f"{name:22} not in this version of transformers")
            continue
        print(f"{name:22}" + "".join(f"{errors[c]:11.1e}" if c in errors else f"{'-':>11}" for c in columns))
        if max(errors.values()) > LIMIT:
            failed.append(name)
    print(f"{len(runs) - len(failed)} passed, {len(failed)} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
