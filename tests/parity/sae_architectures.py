"""Compares imported dictionaries with the tools that wrote them.

For every architecture that sae-lens has, sae-lens writes a random dictionary to disk and encodes random states; saequel
imports the folder and encodes the same states. Of the other formats, files are written here in their layouts and encoded
by the formulas of their sources (EleutherAI/sparsify, saprmarks/dictionary_learning, rmovva/HypotheSAEs,
enjalot/latent-sae, davidkaczer/itda; those that are installed are used themselves). What must hold: the same features
fire on every row, and activations agree to 1e-5 of the row's largest; what is rebuilt to 1e-5 of its largest value. The
states are one sequence to a temporal dictionary, and what it rebuilds is compared without what it predicts.

    python tests/parity/sae_architectures.py                      runs all, prints a table, exits 1 if one differs
    python tests/parity/sae_architectures.py --fixtures DIR       also writes the small ones of the quick tests

Needs torch, safetensors and sae-lens (with transformer-lens importable). Ours runs as an example of saequel-encoder:
`cargo run -p saequel-encoder --example sae_encode`; set SAE_ENCODE to the path of the built example to skip cargo.

Ties: random numbers have none. Where activations are equal, saequel takes the lower latent, torch.topk any.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
ROWS, D_IN, D_SAE, D_OUT = 300, 48, 160, 40
RTOL = 1e-5


class Case:
    """A dictionary on disk, states, and what the source makes of them."""

    def __init__(self, name, source, states, acts, rebuilt=None, signed=False, **options):
        self.name, self.source, self.states, self.acts = name, str(source), states, acts
        self.rebuilt, self.signed, self.options = rebuilt, signed, options


def rand(*shape, scale=1.0):
    return torch.randn(*shape) * scale


# --- SAELens -----------------------------------------------------------------------------------------------------------

METADATA = dict(model_name="gpt2-small", hook_name="blocks.5.hook_resid_post", prepend_bos=True)


def fill(sae):
    """Random weights of every parameter, small biases, thresholds around typical pre-activations."""
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            if name in ("W_enc", "W_dec", "W_skip"):
                parameter.copy_(rand(*parameter.shape, scale=1 / math.sqrt(D_IN)))
            elif name == "threshold":
                parameter.copy_(torch.rand(parameter.shape) - 0.2)
            else:
                parameter.copy_(rand(*parameter.shape, scale=0.3))
        if sae.cfg.architecture() == "matching_pursuit":
            sae.W_dec.div_(sae.W_dec.norm(dim=-1, keepdim=True))
        for layer in getattr(sae, "attn_layers", []):
            # Codes are about 0.02; queries and keys so large that attention is far from uniform.
            for part, scale in ((layer.q_target, 12.0), (layer.k_ctx, 12.0), (layer.v_ctx, 4.0), (layer.c_proj, 0.3)):
                part.weight.copy_(rand(*part.weight.shape, scale=scale))


def sequence_acts(sae, states):
    """Features of states that are one sequence, and what they rebuild, before the normalisation is undone."""
    with torch.no_grad():
        novel, predicted = sae.encode_with_predictions(states.unsqueeze(0))
        assert predicted.abs().max() > novel.max() / 100
        sae.run_time_activation_norm_fn_out = lambda x: x
        return novel[0], sae.decode(novel)[0]


def saelens_cases(folder):
    import sae_lens.saes as saes
    from sae_lens.saes.sae import SAE, SAEMetadata

    def case(name, cls, config, scale=3.0, sparsity=False, hook=METADATA["hook_name"], **extra):
        config = config(metadata=SAEMetadata(**{**METADATA, "hook_name": hook}), d_in=D_IN, d_sae=D_SAE, **extra)
        sae = cls(config)
        fill(sae)
        path = folder / name.replace(" ", "-").replace(":", "")
        sae.save_model(path)
        if sparsity:
            save_file({"sparsity": -4 * torch.rand(D_SAE)}, path / "sparsity.safetensors")
        return finish(name, path, sae, scale)

    def finish(name, path, sae, scale):
        states = rand(ROWS, D_IN, scale=scale) + 0.5
        if sae.cfg.architecture() == "temporal":
            return Case("sae-lens " + name, path, states, *sequence_acts(sae, states))
        if sae.cfg.reshape_activations == "hook_z":
            given = states.reshape(ROWS, 4, D_IN // 4)
        else:
            given = states
        with torch.no_grad():
            acts = sae.encode(given)
            # What is rebuilt, before the normalisation is undone.
            sae.run_time_activation_norm_fn_out = lambda x: x
            rebuilt = sae.decode(acts).reshape(ROWS, -1)
        return Case("sae-lens " + name, path, states, acts, rebuilt, signed=bool((acts < 0).any()))

    out = []
    standard = (saes.StandardSAE, saes.StandardSAEConfig)
    out.append(case("standard", *standard, sparsity=True))
    out.append(case("standard: b_dec at the output only", *standard, apply_b_dec_to_input=False))
    out.append(case("standard: layer_norm", *standard, normalize_activations="layer_norm"))
    out.append(case("standard: constant_norm_rescale", *standard, normalize_activations="constant_norm_rescale"))
    out.append(case("standard: hook_z", *standard, reshape_activations="hook_z", hook="blocks.5.attn.hook_z"))
    out.append(case("gated", saes.GatedSAE, saes.GatedSAEConfig))
    out.append(case("jumprelu", saes.JumpReLUSAE, saes.JumpReLUSAEConfig))
    out.append(case("topk", saes.TopKSAE, saes.TopKSAEConfig, k=7))
    out.append(case("topk: rescaled by decoder norm", saes.TopKSAE, saes.TopKSAEConfig, k=7,
                    rescale_acts_by_decoder_norm=True))
    out.append(case("abstopk", saes.AbsTopKSAE, saes.AbsTopKSAEConfig, k=9))
    out.append(case("abstopk: rescaled by decoder norm", saes.AbsTopKSAE, saes.AbsTopKSAEConfig, k=9,
                    rescale_acts_by_decoder_norm=True))
    for stop, threshold, steps in ((True, 1e-2, None), (False, 3.0, 20), (True, 0.0, 12)):
        out.append(case(f"matching_pursuit: stop {stop} threshold {threshold} steps {steps}", saes.MatchingPursuitSAE,
                        saes.MatchingPursuitSAEConfig, residual_threshold=threshold, max_iterations=steps,
                        stop_on_duplicate_support=stop))
    transcoders = dict(apply_b_dec_to_input=False, d_out=D_OUT)
    out.append(case("transcoder", saes.Transcoder, saes.TranscoderConfig, **transcoders))
    out.append(case("skip_transcoder", saes.SkipTranscoder, saes.SkipTranscoderConfig, **transcoders))
    out.append(case("jumprelu_transcoder", saes.JumpReLUTranscoder, saes.JumpReLUTranscoderConfig, **transcoders))
    out.append(case("jumprelu_skip_transcoder", saes.JumpReLUSkipTranscoder, saes.JumpReLUSkipTranscoderConfig,
                    **transcoders))

    temporal = (saes.TemporalSAE, saes.TemporalSAEConfig)
    out.append(case("temporal", *temporal, n_heads=4, bottleneck_factor=8, kval_topk=9,
                    normalize_activations="constant_scalar_rescale", activation_normalization_factor=0.4))
    out.append(case("temporal: relu, own encoder, 2 layers", *temporal, n_heads=2, n_attn_layers=2, bottleneck_factor=1,
                    sae_diff_type="relu", tied_weights=False, apply_b_dec_to_input=False))
    out.append(case("temporal: b_dec nowhere, constant_norm_rescale", *temporal, n_heads=5, bottleneck_factor=16,
                    n_attn_layers=3, kval_topk=20, apply_b_dec_to_input=False,
                    normalize_activations="constant_norm_rescale"))

    # BatchTopK and Matryoshka are trained, and saved for use as JumpReLU.
    for name, cls, config, extra in (
        ("batchtopk", saes.BatchTopKTrainingSAE, saes.BatchTopKTrainingSAEConfig, {}),
        ("matryoshka_batchtopk", saes.MatryoshkaBatchTopKTrainingSAE, saes.MatryoshkaBatchTopKTrainingSAEConfig,
         {"matryoshka_widths": [32, 96, D_SAE]}),
    ):
        for training in (False, True):
            config_ = config(metadata=SAEMetadata(**METADATA), d_in=D_IN, d_sae=D_SAE, k=8, **extra)
            sae = cls(config_)
            fill(sae)
            sae.topk_threshold.fill_(1.3)
            path = folder / f"{name}-{'training' if training else 'inference'}"
            if training:
                sae.save_model(path)
                states = rand(ROWS, D_IN, scale=3.0)
                with torch.no_grad():
                    hidden = sae.process_sae_in(states) @ sae.W_enc + sae.b_enc
                    hidden = hidden * sae.W_dec.norm(dim=-1)
                    acts = hidden * (hidden > sae.topk_threshold)
                    rebuilt = (acts / sae.W_dec.norm(dim=-1)) @ sae.W_dec + sae.b_dec
                out.append(Case(f"sae-lens {name}: training checkpoint", path, states, acts, rebuilt))
            else:
                sae.save_inference_model(path)
                out.append(finish(f"{name}: inference", path, SAE.load_from_disk(path), 3.0))

    # A configuration from before version 6.
    path = folder / "old"
    sae = saes.TopKSAE(saes.TopKSAEConfig(d_in=D_IN, d_sae=D_SAE, k=5))
    fill(sae)
    sae.save_model(path)
    (path / "cfg.json").write_text(json.dumps({
        "d_in": D_IN, "d_sae": D_SAE, "dtype": "float32", "hook_point": "blocks.2.hook_resid_pre", "model_name": "gpt2-small",
        "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5}, "normalize_activations": False,
        "apply_b_dec_to_input": True, "prepend_bos": True, "hook_point_head_index": None,
    }))
    out.append(finish("topk: configuration of version 3", path, SAE.load_from_disk(path), 3.0))
    # The factor of the expected average norm, folded by sae-lens, multiplied by us.
    path = folder / "scaled"
    sae = saes.StandardSAE(saes.StandardSAEConfig(
        metadata=SAEMetadata(**METADATA), d_in=D_IN, d_sae=D_SAE, normalize_activations="expected_average_only_in"))
    fill(sae)
    sae.save_model(path)
    folded = SAE.load_from_disk(path)
    folded.fold_activation_norm_scaling_factor(0.37)
    last = finish("standard: expected_average_only_in", path, folded, 3.0)
    last.rebuilt = last.rebuilt * 0.37
    last.options["input_scale"] = 0.37
    out.append(last)
    return out


def temporal_saes(folder):
    """conf.yaml and latest_ckpt.safetensors of canrager/temporalSAEs, which sae-lens loads."""
    from sae_lens.loading import pretrained_sae_loaders as loaders
    from sae_lens.saes import TemporalSAE, TemporalSAEConfig

    out = []
    for tied in (True, False):
        name = f"gemma-2-2B/layer_{12 if tied else 13}/temporal"
        path = folder / "temporalSAEs" / name
        path.mkdir(parents=True)
        sae = TemporalSAE(TemporalSAEConfig(d_in=D_IN, d_sae=4 * D_IN, n_heads=4, bottleneck_factor=4, tied_weights=tied))
        fill(sae)
        tensors = {name: value.contiguous() for name, value in sae.state_dict().items()}
        for theirs, ours in (("D", "W_dec"), ("b", "b_dec"), ("E", "W_enc")):
            if ours in tensors:
                tensors[theirs] = tensors.pop(ours)
        save_file(tensors, path / "latest_ckpt.safetensors")
        (path / "conf.yaml").write_text(f"""deploy: True
data:
  context_length: 500
  dtype: "float32"  # as the weights
llm:
  model_hf_name: google/gemma-2-2b
  dimin: {D_IN}
sae:
  sae_type: 'temporal'
  sae_diff_type: 'topk' # Options: 'relu', 'topk'
  tied_weights: {tied}
  exp_factor: 4
  kval_topk: 11
  n_heads: 4
  n_attn_layers: 1
  bottleneck_factor: 4
  scaling_factor: 0.25 # of gemma-2-2b
log:
  log_interval: 10
defaults:
  - _self_
""")
        fetch, loaders.hf_hub_download = loaders.hf_hub_download, lambda repo_id, filename, **_: folder / repo_id / filename
        try:
            config, state, _ = loaders.temporal_sae_huggingface_loader("temporalSAEs", name)
        finally:
            loaders.hf_hub_download = fetch
        loaded = TemporalSAE(TemporalSAEConfig.from_dict(config))
        loaded.load_state_dict(state)
        states = rand(ROWS, D_IN, scale=4.0)
        out.append(Case(f"temporalSAEs{'' if tied else ': own encoder'}", path, states, *sequence_acts(loaded, states)))
    return out


# --- other formats -----------------------------------------------------------------------------------------------------


def topk(hidden, k):
    """Of each row the k largest, and of these what is above 0."""
    values, indices = hidden.topk(k, dim=-1)
    return torch.zeros_like(hidden).scatter(-1, indices, values.relu())


def weights(dtype=torch.float32):
    encoder = rand(D_SAE, D_IN, scale=1 / math.sqrt(D_IN)).to(dtype)
    decoder = rand(D_SAE, D_IN, scale=1 / math.sqrt(D_IN)).to(dtype)
    return encoder, decoder, rand(D_SAE, scale=0.3).to(dtype), rand(D_IN, scale=0.3).to(dtype)


def gemma_scope(folder):
    """params.npz of google/gemma-scope-2b-pt-res, in the folders it lies in."""
    encoder, decoder, b_enc, b_dec = weights()
    threshold = torch.rand(D_SAE)
    path = folder / "gemma-scope-2b-pt-res" / "layer_12" / "width_16k" / "average_l0_82"
    path.mkdir(parents=True)
    np.savez(path / "params.npz", W_enc=encoder.T.contiguous().numpy(), W_dec=decoder.numpy(), b_enc=b_enc.numpy(),
             b_dec=b_dec.numpy(), threshold=threshold.numpy())
    states = rand(ROWS, D_IN, scale=3.0)
    hidden = states @ encoder.T + b_enc
    acts = hidden * (hidden > threshold) * (hidden > 0)
    return Case("Gemma Scope npz", path, states, acts, acts @ decoder + b_dec)


def gemma_scope_2(folder):
    encoder, decoder, b_enc, b_dec = weights(torch.bfloat16)
    threshold = torch.rand(D_SAE)
    path = folder / "gemma-scope-2-270m-pt" / "resid_post" / "layer_9_width_16k_l0_small"
    path.mkdir(parents=True)
    save_file({"w_enc": encoder.T.contiguous(), "w_dec": decoder, "b_enc": b_enc, "b_dec": b_dec, "threshold": threshold},
              path / "params.safetensors")
    (path / "config.json").write_text(json.dumps({
        "architecture": "jump_relu", "model_name": "gemma-v3-270m-pt", "hf_hook_point_in": "model.layers.9.output"}))
    states = rand(ROWS, D_IN, scale=3.0)
    encoder, decoder, b_enc, b_dec = (x.float() for x in (encoder, decoder, b_enc, b_dec))
    hidden = states @ encoder.T + b_enc
    acts = hidden * (hidden > threshold) * (hidden > 0)
    return Case("Gemma Scope 2 safetensors (bfloat16)", path, states, acts, acts @ decoder + b_dec)


def llama_scope(folder):
    """hyperparams.json and checkpoints/final.safetensors of fnlp/Llama3_1-8B-Base-LXR-8x; as sae-lens folds them."""
    encoder, decoder, b_enc, b_dec = weights()
    norm, threshold = 21.0, 0.6
    factor = math.sqrt(D_IN) / norm
    path = folder / "Llama3_1-8B-Base-L15R-8x"
    (path / "checkpoints").mkdir(parents=True)
    save_file({"encoder.weight": encoder, "encoder.bias": b_enc, "decoder.weight": decoder.T.contiguous(),
               "decoder.bias": b_dec}, path / "checkpoints" / "final.safetensors")
    (path / "hyperparams.json").write_text(json.dumps({
        "d_model": D_IN, "d_sae": D_SAE, "jump_relu_threshold": threshold, "hook_point_in": "blocks.15.hook_resid_post",
        "hook_point_out": "blocks.15.hook_resid_post", "dataset_average_activation_norm": {"in": norm, "out": norm}}))
    states = rand(ROWS, D_IN, scale=3.0)
    hidden = (states * factor) @ encoder.T + b_enc
    acts = hidden * (hidden > threshold * factor) * (hidden > 0)
    return Case("Llama Scope", path, states, acts, acts @ decoder + b_dec)


def qwen_scope(folder):
    encoder, decoder, b_enc, b_dec = weights()
    path = folder / "SAE-Res-Qwen3-1.7B-Base-W32K-L0_50"
    path.mkdir()
    torch.save({"W_enc": encoder, "W_dec": decoder.T.contiguous(), "b_enc": b_enc, "b_dec": b_dec},
               path / "layer3.sae.pt")
    states = rand(ROWS, D_IN, scale=3.0)
    acts = topk(states @ encoder.T + b_enc, 50)
    return Case("Qwen Scope", path / "layer3.sae.pt", states, acts, acts @ decoder + b_dec)


def goodfire(folder):
    encoder, decoder, b_enc, b_dec = weights(torch.bfloat16)
    path = folder / "Llama-3.1-8B-Instruct-SAE-l19.pth"
    # The decoder as a transposed view: its values lie in another order than its shape says.
    torch.save({"encoder_linear.weight": encoder, "encoder_linear.bias": b_enc, "decoder_linear.weight": decoder.T,
                "decoder_linear.bias": b_dec}, path)
    states = rand(ROWS, D_IN, scale=3.0)
    encoder, decoder, b_enc, b_dec = (x.float() for x in (encoder, decoder, b_enc, b_dec))
    acts = (states @ encoder.T + b_enc).relu()
    return Case("Goodfire pth (bfloat16)", path, states, acts, acts @ decoder + b_dec)


def deepseek(folder):
    encoder, decoder, b_enc, b_dec = weights()
    path = folder / "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt"
    torch.save({"encoder.weight": encoder, "encoder.bias": b_enc, "decoder.weight": decoder.T.contiguous(),
                "decoder.bias": b_dec}, path)
    states = rand(ROWS, D_IN, scale=3.0)
    acts = (states @ encoder.T + b_enc).relu()
    return Case("DeepSeek-R1", path, states, acts, acts @ decoder + b_dec)


def sparsify(folder):
    """cfg.json and sae.safetensors in a folder named after the module, the model in config.json above."""
    out = []
    (folder / "sparsify").mkdir()
    (folder / "sparsify" / "config.json").write_text(json.dumps({"model": "EleutherAI/pythia-70m"}))
    for name, module, extra in (
        ("topk", "layers.3", {}),
        ("groupmax", "layers.4", {"activation": "groupmax", "k": 8}),
        ("signed", "layers.2", {"signed": True}),
        ("transcoder with skip", "layers.3.mlp", {"transcode": True, "skip_connection": True}),
    ):
        encoder, decoder, b_enc, b_dec = weights()
        path = folder / "sparsify" / module
        path.mkdir()
        tensors = {"encoder.weight": encoder, "encoder.bias": b_enc, "W_dec": decoder, "b_dec": b_dec}
        if extra.get("skip_connection"):
            tensors["W_skip"] = rand(D_IN, D_IN)
        save_file(tensors, path / "sae.safetensors")
        config = {"activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": D_SAE, "k": 10,
                  "multi_topk": False, "skip_connection": False, "transcode": False, "d_in": D_IN, **extra}
        (path / "cfg.json").write_text(json.dumps(config))
        states = rand(ROWS, D_IN, scale=3.0)
        hidden = (states if config["transcode"] else states - b_dec) @ encoder.T + b_enc
        if config["activation"] == "groupmax":
            groups = hidden.relu().unflatten(-1, (config["k"], -1))
            acts = torch.where(groups == groups.max(-1, keepdim=True).values, groups, 0.0).flatten(-2)
        elif config.get("signed"):
            indices = hidden.abs().topk(config["k"], dim=-1).indices
            acts = torch.zeros_like(hidden).scatter(-1, indices, hidden.gather(-1, indices))
        else:
            acts = topk(hidden, config["k"])
        out.append(Case(f"sparsify {name}", path, states, acts, acts @ decoder + b_dec, signed="signed" in config))
    return out


def dictionary_learning(folder):
    out = []
    k, threshold = 9, 0.8
    for dict_class in ("AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder", "JumpReluAutoEncoder", "AutoEncoderTopK",
                       "BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        encoder, decoder, b_enc, b_dec = weights()
        linear = {"encoder.weight": encoder, "encoder.bias": b_enc, "decoder.weight": decoder.T.contiguous()}
        parameters = {"W_enc": encoder.T.contiguous(), "W_dec": decoder, "b_enc": b_enc, "b_dec": b_dec}
        states = rand(ROWS, D_IN, scale=3.0)
        centred = (states - b_dec) @ encoder.T + b_enc
        rebuild = lambda acts: acts @ decoder + b_dec  # noqa: E731
        if dict_class == "AutoEncoder":
            state = {**linear, "bias": b_dec}
            # Brought to a decoder of unit rows on loading, as its from_pretrained does.
            acts = centred.relu() * decoder.norm(dim=-1)
            rebuilt = rebuild(acts / decoder.norm(dim=-1))
        elif dict_class == "AutoEncoderNew":
            state = {**linear, "decoder.bias": b_dec}
            acts = (states @ encoder.T + b_enc).relu()
            rebuilt = rebuild(acts)
        elif dict_class == "GatedAutoEncoder":
            r_mag, gate, mag = rand(D_SAE, scale=0.3), rand(D_SAE, scale=0.3), rand(D_SAE, scale=0.3)
            state = {"encoder.weight": encoder, "decoder.weight": decoder.T.contiguous(), "decoder_bias": b_dec,
                     "r_mag": r_mag, "gate_bias": gate, "mag_bias": mag}
            plain = (states - b_dec) @ encoder.T
            acts = (plain + gate > 0) * (r_mag.exp() * plain + mag).relu()
            rebuilt = rebuild(acts)
        elif dict_class == "JumpReluAutoEncoder":
            thresholds = torch.rand(D_SAE)
            state = {**parameters, "threshold": thresholds}
            hidden = states @ encoder.T + b_enc
            acts = (hidden * (hidden > thresholds)).relu()
            rebuilt = rebuild(acts)
        else:
            numbers = {"k": torch.tensor(k, dtype=torch.int), "threshold": torch.tensor(threshold)}
            if dict_class == "AutoEncoderTopK":
                state, acts = {**linear, "b_dec": b_dec, **numbers}, topk(centred, k)
            else:
                state = {**linear, "b_dec": b_dec, **numbers}
                if dict_class == "MatryoshkaBatchTopKSAE":
                    state = {**parameters, **numbers, "group_sizes": torch.tensor([32, 64, D_SAE - 96])}
                acts = centred.relu() * (centred.relu() > threshold)
            rebuilt = rebuild(acts)
        path = folder / "dictionary_learning" / dict_class
        path.mkdir(parents=True)
        torch.save(state, path / "ae.pt")
        (path / "config.json").write_text(json.dumps({
            "trainer": {"dict_class": dict_class, "activation_dim": D_IN, "dict_size": D_SAE, "k": k, "layer": 3,
                        "lm_name": "EleutherAI/pythia-70m-deduped", "submodule_name": "resid_post_layer_3"},
            "buffer": {"ctx_len": 128}}))
        out.append(Case(f"dictionary_learning {dict_class}", path, states, acts, rebuilt))
    return out


def hypothesaes(folder):
    out = []
    for batch in (False, True):
        encoder, decoder, b_enc, b_dec = weights()
        path = folder / f"hypothesaes{batch}.pt"
        config = {"input_dim": D_IN, "m_total_neurons": D_SAE, "k_active_neurons": 6, "aux_k": 12, "multi_k": None,
                  "dead_neuron_threshold_steps": 256, "prefix_lengths": [32, D_SAE], "use_batch_topk": batch}
        import pickle
        torch.save({"config": config, "state_dict": {
            "input_bias": b_dec, "neuron_bias": b_enc, "threshold": torch.tensor(1.1), "encoder.weight": encoder,
            "decoder.weight": decoder.T.contiguous()}}, path, pickle_module=pickle)
        states = torch.nn.functional.normalize(rand(ROWS, D_IN), dim=-1) * 6
        hidden = (states - b_dec) @ encoder.T + b_enc
        acts = torch.where(hidden.relu() > 1.1, hidden.relu(), 0.0) if batch else topk(hidden, 6)
        out.append(Case(f"HypotheSAEs {'BatchTopK' if batch else 'TopK'}", path, states, acts, acts @ decoder + b_dec,
                        reader="text-embedding-3-small"))
    return out


def latentsae(folder):
    out = []
    for kind in ("topk", "jumprelu", "abstopk", "batchtopk", "matryoshka"):
        encoder, decoder, b_enc, b_dec = weights()
        mean = rand(D_IN, scale=0.2)
        path = folder / "latentsae" / kind
        path.mkdir(parents=True)
        tensors = {"encoder.weight": encoder, "encoder.bias": b_enc, "W_dec": decoder, "b_dec": b_dec, "input_mean": mean}
        config = {"sae_type": kind, "d_in": D_IN, "expansion_factor": 32, "num_latents": D_SAE, "k": 8, "mean_center": True,
                  "normalize_decoder": True}
        states = rand(ROWS, D_IN, scale=2.0)
        hidden = (states - mean - b_dec) @ encoder.T + b_enc
        if kind == "jumprelu":
            tensors["log_threshold"] = torch.rand(D_SAE).log()
            acts = hidden * (hidden > tensors["log_threshold"].exp())
        elif kind == "abstopk":
            indices = hidden.abs().topk(8, dim=-1).indices
            acts = torch.zeros_like(hidden).scatter(-1, indices, hidden.gather(-1, indices))
        elif kind == "batchtopk":
            tensors["batchtopk_threshold"] = torch.tensor(0.9)
            acts = topk(torch.where(hidden.relu() >= 0.9, hidden.relu(), 0.0), 8)
        elif kind == "matryoshka":
            config.update(matryoshka_sizes=f"32,{D_SAE}", matryoshka_ks="3,11")
            acts = topk(hidden, 11)
        else:
            acts = topk(hidden, 8)
        save_file(tensors, path / "sae.safetensors")
        (path / "cfg.json").write_text(json.dumps(config))
        out.append(Case(f"latentsae {kind}", path, states, acts, acts @ decoder + b_dec + mean, signed=kind == "abstopk",
                        reader="nomic-embed-text-v1.5"))
    return out


def itda(folder):
    atoms = torch.nn.functional.normalize(rand(D_SAE, D_IN), dim=-1)
    path = folder / "itda"
    path.mkdir()
    torch.save(atoms, path / "atoms.pt")
    torch.save(torch.zeros(D_SAE, 2, dtype=torch.long), path / "atom_indices.pt")
    (path / "metadata.yaml").write_text("k: 12\nlayer: 5\nlm_name: EleutherAI/pythia-70m\nloss_threshold: 0.001\n")
    states = rand(ROWS, D_IN, scale=3.0)
    residual, acts = states.clone(), torch.zeros(ROWS, D_SAE)
    for _ in range(12):
        products = residual @ atoms.T
        best = products.abs().argmax(dim=1)
        values = products[torch.arange(ROWS), best]
        acts[torch.arange(ROWS), best] += values
        residual -= values.unsqueeze(1) * atoms[best]
    return Case("ITDA", path, states, acts, acts @ atoms, signed=True)


def refusals(folder):
    """Dictionaries that must be refused, and a part of the reason."""
    out = []
    path = folder / "crosslayer"
    path.mkdir()
    save_file({"W_dec": rand(D_SAE, D_IN), "b_dec": rand(D_IN), "W_enc": rand(D_IN, D_SAE)}, path / "sae_weights.safetensors")
    (path / "cfg.json").write_text(json.dumps({"architecture": "clt", "d_in": D_IN, "d_sae": D_SAE}))
    out.append(({"source": str(path)}, "architecture 'clt' is not known"))
    path = folder / "head"
    path.mkdir()
    save_file({"W_dec": rand(D_SAE, D_IN), "b_dec": rand(D_IN)}, path / "sae_weights.safetensors")
    (path / "cfg.json").write_text(json.dumps({"metadata": {"hook_head_index": 3}, "d_in": D_IN, "d_sae": D_SAE}))
    out.append(({"source": str(path)}, "head 3 alone"))
    path = folder / "lista"
    path.mkdir()
    save_file({"W_dec": rand(D_SAE, D_IN)}, path / "sae.safetensors")
    (path / "cfg.json").write_text(json.dumps({"sae_type": "lista"}))
    out.append(({"source": str(path)}, "'lista' is its own"))
    return out


# --- comparison --------------------------------------------------------------------------------------------------------


def run_ours(cases, folder):
    for i, case in enumerate(cases):
        states = folder / f"{i}.f32"
        states.write_bytes(case.pop("raw"))
        case.update(states=str(states), output=str(folder / f"{i}.json"))
    (folder / "cases.json").write_text(json.dumps(cases))
    program = os.environ.get("SAE_ENCODE")
    command = [program] if program else ["cargo", "run", "-q", "-p", "saequel-encoder", "--example", "sae_encode", "--"]
    # Nothing may come from the network.
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "SAEQUEL_CACHE": str(folder / "cache")}
    subprocess.run([*command, str(folder / "cases.json")], check=True, cwd=ROOT, env=environment)
    return [json.loads(Path(case["output"]).read_text()) for case in cases]


def compare(case, ours):
    """Whether the same features fire on all rows, and the largest differences."""
    acts = case.acts.double()
    if case.signed:
        acts = torch.cat([acts.relu(), (-acts).relu()], dim=-1)
    dense = torch.zeros_like(acts)
    for i, row in enumerate(ours["rows"]):
        for feature, activation in row:
            dense[i, feature] = activation
    same = ((dense > 0) == (acts > 0)).all(dim=-1)
    largest = acts.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12)
    error = ((dense - acts).abs() / largest).max().item()
    rebuilt = torch.tensor(ours["rebuilt"], dtype=torch.double)
    rebuilt_error = float("nan")
    if case.rebuilt is not None:
        expected = case.rebuilt.double()
        rebuilt_error = ((rebuilt - expected).abs() / expected.abs().amax(dim=-1, keepdim=True)).max().item()
    return (~same).sum().item(), error, rebuilt_error, (acts > 0).sum(dim=-1).double().mean().item()


def write_fixtures(cases, folder):
    """Small ones for the quick tests: eight rows of states and the activations that the source gives."""
    chosen = {
        "sae-lens jumprelu": "saelens",
        "sae-lens temporal": "temporal",
        "Gemma Scope npz": "gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82",
        "sparsify signed": "sparsify/layers.2",
    }
    for case in cases:
        if case.name not in chosen:
            continue
        target = folder / chosen[case.name]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(case.source, target)
        above = Path(case.source).parent / "config.json"
        if above.exists():
            shutil.copy(above, target.parent)
        acts = case.acts if not case.signed else torch.cat([case.acts.relu(), (-case.acts).relu()], dim=-1)
        rows = [[[j, round(float(row[j]), 7)] for j in row.nonzero().flatten().tolist()] for row in acts[:8]]
        states = [[float(x) for x in row] for row in case.states[:8]]
        (target / "expected.json").write_text(json.dumps({"states": states, "rows": rows}))


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--fixtures", type=Path)
    arguments.add_argument("--only", help="part of the names of the cases to run")
    arguments = arguments.parse_args()
    global ROWS, D_IN, D_SAE
    if arguments.fixtures:
        ROWS, D_IN, D_SAE = 8, 8, 24
    torch.manual_seed(5)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = []
        if not arguments.fixtures:
            (folder / "saelens").mkdir()
        makers = [lambda folder: saelens_cases(folder / "saelens"), temporal_saes, gemma_scope, gemma_scope_2, llama_scope,
                  qwen_scope, goodfire, deepseek, sparsify, dictionary_learning, hypothesaes, latentsae, itda]
        if arguments.fixtures:
            write_fixtures(fixture_cases(folder), arguments.fixtures)
            return
        for maker in makers:
            made = maker(folder)
            cases += made if isinstance(made, list) else [made]
        if arguments.only:
            cases = [case for case in cases if arguments.only in case.name]
        given = []
        for i, case in enumerate(cases):
            raw = case.states.float().contiguous().numpy().astype("<f4").tobytes()
            given.append({"source": case.source, "raw": raw, "folder": str(folder / "ours" / str(i)), **case.options})
        refused = refusals(folder)
        given += [{**case, "raw": b"", "reader": "gpt2", "hook": "3"} for case, _ in refused]
        answers = run_ours(given, folder)
        failed = 0
        print(f"{'dictionary':<62} {'L0':>6} {'rows with another support':>26} {'activations':>12} {'rebuilt':>10}")
        for case, ours in zip(cases, answers):
            if "error" in ours:
                failed += 1
                print(f"{case.name:<62} ERROR {ours['error']}")
                continue
            rows, error, rebuilt, l0 = compare(case, ours)
            wrong = rows > 0 or error > RTOL or rebuilt > RTOL
            failed += wrong
            print(f"{case.name:<62} {l0:>6.1f} {rows:>26} {error:>12.1e} {rebuilt:>10.1e}{'  DIFFERS' if wrong else ''}")
        for (case, reason), ours in zip(refused, answers[len(cases):]):
            right = reason in ours.get("error", "")
            failed += not right
            print(f"{'refused: ' + Path(case['source']).name:<62} {'yes' if right else 'NO: ' + str(ours)[:200]}")
        print(f"{len(cases)} dictionaries of {ROWS} rows, {failed} wrong")
        sys.exit(1 if failed else 0)


def fixture_cases(folder):
    import sae_lens.saes as saes
    from sae_lens.saes.sae import SAEMetadata

    sae = saes.JumpReLUSAE(saes.JumpReLUSAEConfig(metadata=SAEMetadata(**METADATA), d_in=D_IN, d_sae=D_SAE))
    fill(sae)
    path = folder / "jumprelu"
    sae.save_model(path)
    states = rand(ROWS, D_IN, scale=3.0)
    with torch.no_grad():
        acts = sae.encode(states)
    signed = [case for case in sparsify(folder) if case.name == "sparsify signed"]
    gemma = gemma_scope(folder)
    config = saes.TemporalSAEConfig(
        metadata=SAEMetadata(**METADATA), d_in=D_IN, d_sae=D_SAE, n_heads=2, bottleneck_factor=3, kval_topk=5,
        normalize_activations="constant_scalar_rescale", activation_normalization_factor=0.5)
    temporal = saes.TemporalSAE(config)
    fill(temporal)
    temporal.save_model(folder / "temporal")
    sequence = rand(ROWS, D_IN, scale=3.0)
    temporal = Case("sae-lens temporal", folder / "temporal", sequence, sequence_acts(temporal, sequence)[0])
    return [Case("sae-lens jumprelu", path, states, acts), gemma, *signed, temporal]


if __name__ == "__main__":
    main()
