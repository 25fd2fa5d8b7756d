"""A language model for TimeLLM, which would download one."""

from __future__ import annotations

import importlib
import os
import tempfile
from typing import Any


def language_model_arguments() -> dict[str, Any]:
    """A language model for TimeLLM that knows a few letters, made from a configuration; nothing is downloaded.

    Releases from 1.7.5 on take the folder to load it from, earlier ones the model itself.
    """
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast
    except ImportError:
        return {}  # TimeLLM says itself what it misses

    letters = {word: number for number, word in enumerate(["<|endoftext|>", *map(chr, range(32, 127))])}
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
    config = GPT2Config(vocab_size=len(letters), n_positions=4096, n_embd=16, n_layer=1, n_head=2)
    llm = GPT2Model(config)
    module = importlib.import_module("neuralforecast.models.timellm")
    if not hasattr(module, "AutoModel"):
        return {"llm": llm, "llm_config": config, "llm_tokenizer": fast}
    from safetensors.torch import save_file

    folder = tempfile.mkdtemp()
    config.save_pretrained(folder)
    fast.save_pretrained(folder)
    # `save_pretrained` of a model writes on rank 0 only
    save_file(llm.state_dict(), os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    return {"llm": folder}
