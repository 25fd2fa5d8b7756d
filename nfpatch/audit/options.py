"""The table of constructor options: which ones the audit varies, with which values, which ones it does not, and why.

It has every option of every model of every known release (a test compares it with the signatures). An option of a later
release that is not in it is tried as far as the source shows its values, and the report names it. An entry named
`Model.option` takes precedence over one named `option`. An option is varied if it decides which layers are built or
used; one option at a time, from the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nfpatch.audit.models import ModelSource

POINT, QUANTILE, DISTRIBUTION = "MAE", "MQLoss", "DistributionLoss"
# Tried with every kind of features
LOSSES = (POINT, QUANTILE, DISTRIBUTION)
# Tried once: the implicit quantiles have their own layers, a mixture has many outputs
IMPLICIT_QUANTILE, MIXTURE = "IQLoss", "GMM"


@dataclass(frozen=True)
class Varied:
    """An option that decides which layers are built or used.

    All other cells use `small` instead of the default, if it is set. `values` are tried; if there are none, a Boolean
    default is inverted. If `documented`, the choices in the docstring are tried as well. `requires` are options without
    which it has no effect; they change with it. It is tried with the usual loss, or with the `losses`; without
    exogenous features and with all, or if `exogenous_only` just with all. If `known_in` names a file of the package,
    only values that its text contains are tried.
    """

    why: str
    values: tuple[Any, ...] = ()
    small: Any = None
    requires: Mapping[str, Any] = field(default_factory=dict)
    documented: bool = True
    exogenous_only: bool = False
    losses: tuple[str, ...] = ()
    known_in: str = ""


@dataclass(frozen=True)
class Fixed:
    """An option that is not varied. Every cell uses `small` instead of the default, if it is set."""

    why: str
    small: Any = None


@dataclass(frozen=True)
class Training:
    """An option that decides how a model is trained, not how it is built.

    The audit checks this: one cell of each model has the `value` of all such options, and must have the same unused
    parameters as the cell that differs in nothing else.
    """

    value: Any
    why: str = "how the model is trained, not how it is built"


def _size(value: Any) -> Fixed:
    return Fixed("a size, small for speed; with the same layers", value)


_WRAPPED = {"name": "NHITS", "mlp_units": [[16, 16]] * 3, "windows_batch_size": 16}


OPTIONS: Mapping[str, Varied | Training | Fixed] = {
    # --- training and data
    "learning_rate": Training(0.01),
    "num_lr_decays": Training(1),
    "val_check_steps": Training(3),
    "early_stop_patience_steps": Training(5),  # more than the validations of a cell, so that it takes all steps
    "val_monitor": Training("train_loss"),
    "optimizer": Training("SGD"),
    "optimizer_kwargs": Training({"momentum": 0.5}),
    "lr_scheduler": Training("ExponentialLR"),
    "lr_scheduler_kwargs": Training({"gamma": 0.9}),
    "random_seed": Training(2),
    "alias": Training("renamed"),
    "max_steps": Fixed("how long the model is trained; every step of a cell is checked"),
    "valid_loss": Varied(
        "a separate validation loss, which may have layers: IQLoss, which cannot be combined with another loss",
        (IMPLICIT_QUANTILE,),
        documented=False,
        losses=(IMPLICIT_QUANTILE,),
        known_in="losses/pytorch.py",
    ),
    **dict.fromkeys(
        (
            "batch_size", "valid_batch_size", "inference_windows_batch_size", "step_size", "drop_last_loader",
            "num_workers_loader", "dataloader_kwargs", "start_padding_enabled", "training_data_availability_threshold",
            "inference_input_size", "normalize", "trajectory_samples",
        ),
        Fixed("how the data is served"),
    ),
    "windows_batch_size": Fixed("how the data is served; few windows, for speed", 16),
    **dict.fromkeys(
        (
            "h", "input_size", "loss", "stat_exog_list", "hist_exog_list", "futr_exog_list", "cat_exog_list",
            "categorical_cardinalities", "n_series",
        ),
        Fixed("set by the cells: loss, exogenous features, horizon"),
    ),
    "HINT.model": Fixed("HINT has no parameters but those of the model that it wraps", _WRAPPED),
    "HINT.S": Fixed("the hierarchy of the data: a total and its parts"),
    "scaler_type": Varied(
        "`revin` has weights; the other scalers have none",
        ("revin",),
        documented=False,
        losses=LOSSES,
        known_in="common/_scalers.py",
    ),
    "exclude_insample_y": Varied("leaves the layers that read y without input", exogenous_only=True),
    "h_train": Varied("which of the recurrent outputs the loss reads", (12,), requires={"recurrent": True}),
    # --- columns of 1.0.0
    **dict.fromkeys(
        (
            "s_cont_cols", "s_cat_cols", "o_cont_cols", "o_cat_cols", "k_cont_cols", "k_cat_cols", "s_cat_inp_lens",
            "s_cont_inp_size", "k_cat_inp_lens", "k_cont_inp_size", "o_cat_inp_lens", "o_cont_inp_size",
        ),
        Fixed("columns that 1.0.0 declares and its data set never delivers"),
    ),
    "tgt_size": Fixed("the data have one target"),
    "K": _size(5),
    # --- dropout
    **dict.fromkeys(
        (
            "dropout", "attn_dropout", "fc_dropout", "head_dropout", "channel_dropout", "temporal_dropout",
            "embed_dropout", "encoder_dropout", "decoder_dropout", "lstm_dropout", "dropout_rate", "dropout_prob_theta",
        ),
        Fixed("a dropout rate; no parameters"),
    ),
    # --- sizes
    **dict.fromkeys(
        (
            "hidden_size", "conv_hidden_size", "encoder_hidden_size", "decoder_hidden_size", "state_hsize",
            "linear_hidden_size", "lstm_hidden_size", "d_model", "d_core", "d_ff", "ff_dim", "decoder_output_dim",
            "temporal_decoder_dim", "temporal_ff", "d_llm",
        ),
        _size(16),
    ),
    "n_heads": _size(2),
    "num_kernels": _size(2),
    "mlp_units": Fixed("sizes, small for speed; each block keeps its depth", [[16, 16]] * 3),
    "context_size": Fixed("a size, if it is not deprecated and without effect"),
    "top_k": Fixed("how many periods are used, with the same layers"),
    "factor": Fixed("how many keys are sampled, with the same layers"),
    **dict.fromkeys(
        (
            "DeepAR.decoder_hidden_size", "cat_emb_dim", "temporal_width", "channel_ff",
            "decoder_input_size_multiplier", "n_head", "kernel_size", "n_pool_kernel_size", "n_freq_downsample",
            "n_harmonics", "n_polynomials", "n_basis", "modes", "moving_avg_window", "MovingAvg_window", "moving_avg",
            "patch_len", "stride", "grid_size", "spline_order", "taylor_order", "jacobi_degree", "multi_layer",
            "down_sampling_window",
        ),
        Fixed("a size; with the same layers"),
    ),
    # --- numbers in the arithmetic
    **dict.fromkeys(
        ("grid_eps", "grid_range", "scale_base", "scale_noise", "scale_spline", "leaky_rate"),
        Fixed("a number in the arithmetic; no parameters"),
    ),
    **dict.fromkeys(
        ("enc_in", "dec_in", "llm_num_hidden_layers", "llm_output_attention", "llm_output_hidden_states"),
        Fixed("kept and never read"),
    ),
    # --- activations
    "activation": Varied("of the documented ones, PReLU alone has a weight", ("PReLU",), documented=False),
    **dict.fromkeys(
        (f"{name}.activation" for name in ("VanillaTransformer", "Informer", "Autoformer", "FEDformer")),
        Fixed("relu and gelu are accepted, whatever is documented; no weights"),
    ),
    "RNN.activation": Fixed("tanh or relu inside torch's RNN; no weights"),
    "PatchTST.activation": Fixed("gelu or relu; no weights"),
    "encoder_activation": Fixed("tanh or relu inside torch's layers; no weights"),
    "grn_activation": Fixed("none of the documented ones has weights"),
    "decoder_activation": Varied("of the known ones, PReLU alone has a weight", ("PReLU",)),
    # --- how many
    **dict.fromkeys(
        ("n_layers", "encoder_n_layers", "lstm_n_layers", "num_layers", "n_block", "n_stacks"),
        Varied("how many layers or blocks there are", (1,)),
    ),
    **dict.fromkeys(
        (
            "encoder_n_blocks", "n_rnn_layers", "encoder_layers", "decoder_layers", "e_layers", "num_encoder_layers",
            "num_decoder_layers", "n_hidden_layers", "d_layers",
        ),
        Varied("how many layers or blocks there are", (1, 2)),
    ),
    "decoder_hidden_layers": Varied("how many layers there are", (1, 2), requires={"decoder_hidden_size": 16}),
    "n_blocks": Varied("how many blocks there are", ([2, 2, 2],)),
    "dilations": Varied("how many layers there are", ([[1, 2]],)),
    "TCN.dilations": Varied("how many layers there are", ([1],)),
    "down_sampling_layers": Varied("how many layers there are", (2, 3)),
    # --- kinds of layers
    "recurrent": Varied("another decoder"),
    **dict.fromkeys(("bias", "encoder_bias"), Varied("whether there are biases")),
    "cell_type": Varied("another cell", ("GRU", "RNN", "LSTM", "ResLSTM", "AttentiveLSTM")),
    "add_nl_layer": Varied("one more layer"),
    "stack_types": Varied(
        "which blocks there are, and which of them is the last",
        (
            ["identity"] * 3, ["trend"] * 3, ["seasonality"] * 3, ["seasonality", "trend", "identity"],
            ["trend", "seasonality", "identity"],
        ),
    ),
    "NHITS.stack_types": Fixed("identity is the only type"),
    "shared_weights": Varied("blocks that share their layers", requires={"n_blocks": [2, 2, 2]}),
    "basis": Varied("another basis; of seven, with other sizes", requires={"n_basis": 4}),
    "interpolation_mode": Varied("another way from knots to forecasts", ("nearest", "cubic")),
    "pooling_mode": Varied("another pooling", ("AvgPool1d",)),
    "rnn_type": Varied("another cell", ("lstm", "gru")),
    "one_rnn_initial_state": Varied("which initial states the recurrent layers read", requires={"n_rnn_layers": 2}),
    "distil": Varied("whether there are convolutions between the layers"),
    "version": Varied("another attention block", ("Wavelets",)),
    "mode_select": Varied("which Fourier modes have weights", ("low",)),
    "res_attention": Varied("whether attention scores are passed on"),
    "batch_normalization": Varied("batch instead of layer normalization"),
    "batch_norm": Varied("whether there is batch normalization"),
    "learn_pos_embed": Varied("whether positions are learned"),
    "revin": Varied("whether there is reversible normalization"),
    **dict.fromkeys(("revin_affine", "revine_affine"), Varied("whether the normalization has weights")),
    "revin_subtract_last": Varied("what the normalization subtracts"),
    "layernorm": Varied("whether there is layer normalization"),
    "use_norm": Varied("whether series are normalized"),
    "enable_standalone_scale_spline": Varied("whether splines have a weight of their own"),
    "wavelet_function": Varied("another wavelet"),
    "channel_independence": Varied("whether channels are mixed", (1,)),
    "decomp_method": Varied("another decomposition"),
    "down_sampling_method": Varied("another down-sampling; `conv` has weights"),
    "pe_keep_prob": Varied("how often the positional embedding is used", (0.0, 1.0)),
    "backbone": Varied("another block", ("sLSTM",)),
    "reconciliation": Varied("another way to make forecasts coherent", ("Identity",), small="BottomUp"),
    # --- the language model of TimeLLM
    "llm": Fixed("a tiny GPT-2 made from a configuration; nothing is downloaded"),
    "llm_config": Fixed("comes with the language model"),
    "llm_tokenizer": Fixed("comes with the language model"),
    "prompt_prefix": Fixed("words in the prompt; no parameters"),
}  # fmt: skip


# An option of a new release
NOT_IN_THE_TABLE = Varied("not in the table: a Boolean is inverted, and documented choices are tried")


def entry_of(model: ModelSource, option: str) -> Varied | Training | Fixed:
    """The entry of an option of a model."""
    return OPTIONS.get(f"{model.name}.{option}") or OPTIONS.get(option, NOT_IN_THE_TABLE)


def values_tried(model: ModelSource, option: str, entry: Varied) -> list[Any]:
    """The values of an option that the audit tries, except the one that all other cells use."""
    default = model.defaults.get(option)
    candidates = list(entry.values) or ([not default] if isinstance(default, bool) else [])
    candidates += model.choices.get(option, ()) if entry.documented else ()
    if entry.known_in:
        text = (model.file.parent.parent / entry.known_in).read_text(encoding="utf-8")
        candidates = [value for value in candidates if repr(value) in text or f'"{value}"' in text]
    used = entry.small if entry.small is not None else default
    return [value for place, value in enumerate(candidates) if value != used and value not in candidates[:place]]
