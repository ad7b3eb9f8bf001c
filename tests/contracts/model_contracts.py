"""What the kit relies on in Unsloth, and where models are loaded, adapted, asked and merged."""

from kit.models.families import WITH_UNSLOTH_LAYERS
from tests.contracts.kit_uses import passed
from tests.contracts.promises import Contract, Does, InOrder, IsThere, Says, Takes, contracts

ENVIRONMENT, OTHERS = "kit/support/environment.py", "envcheck/other_gpus.py"
LOADING, METHODS, GENERATION = "kit/backend/loading.py", "kit/backend/methods.py", "kit/backend/generation.py"
MERGING, CANDIDATES, SERVING = "kit/backend/merging.py", "kit/backend/candidates.py", "kit/backend/serving.py"
ADAPTERS, ACTIVATIONS, WEIGHTS = "kit/backend/adapters_in_use.py", "kit/memory/activations.py", "kit/memory/weights.py"
HUB = "kit/data/rows/hub.py"
LOADER, LLAMA, CPU = "unsloth.models.loader", "unsloth.models.llama", "unsloth_zoo.cpu.loader:FastCPUModel"
CHUNKS, OFFLOADING = "unsloth_zoo.fused_losses.fused_linear", "unsloth_zoo.gradient_checkpointing"
LORA, TUNER = "peft.tuners.lora.model:LoraModel", "peft.tuners.tuners_utils"
BNB, QUANTISE = "bitsandbytes.nn.modules", "bitsandbytes.functional"

UNSLOTH = contracts(
    # nothing phones home: on a card Unsloth asks the hub for files that count its users
    ("unsloth.models._utils:get_statistics", Does(
        "'UNSLOTH_DISABLE_STATISTICS' in os.environ",
    ), ENVIRONMENT, "UNSLOTH_DISABLE_STATISTICS"),
    ("huggingface_hub.constants:HF_HUB_DISABLE_TELEMETRY", Does(
        "os.environ.get('HF_HUB_DISABLE_TELEMETRY')", "os.environ.get('DO_NOT_TRACK')",
    ), ENVIRONMENT, "HF_HUB_DISABLE_TELEMETRY"),
    # what is compiled, when that is asked, and where it is written
    ("unsloth.models._block_compile:_enabled", Does(
        "os.environ.get('UNSLOTH_BLOCK_COMPILE', '1') != '0'",
        "os.environ.get('UNSLOTH_COMPILE_DISABLE', '0') not in ('1', 'partial')",
    ), ENVIRONMENT, '"UNSLOTH_COMPILE_DISABLE", "0") not in'),
    ("unsloth_zoo.compiler:_loc", Does("os.getenv('UNSLOTH_COMPILE_LOCATION', None)"), ENVIRONMENT, "COMPILED_FOLDER"),
    # a card that is hidden leaves Unsloth its CPU backend
    ("unsloth_zoo.device_type:_hidden_by", Does(
        "mask is not None and ''.join(mask.split()) in ('', '-1')",
    ), OTHERS, '"CUDA_VISIBLE_DEVICES": ""'),
    ("unsloth_zoo.device_type:cpu_backend_allowed",
     Does("_hidden_by('CUDA_VISIBLE_DEVICES')"), OTHERS, '"CUDA_VISIBLE_DEVICES": ""'),
    ("unsloth_zoo.device_type:get_device_type", InOrder(
        "return 'mlx'", "cpu_backend_forced()", "torch.cuda.is_available()", "torch.xpu.is_available()",
    ), OTHERS, '"UNSLOTH_FORCE_CPU": "1"'),
    ("unsloth_zoo.device_type:cpu_backend_forced", Does(
        "os.environ.get('UNSLOTH_FORCE_CPU', '0') == '1'",
    ), OTHERS, '"UNSLOTH_FORCE_CPU": "1"'),
    ("unsloth_zoo.mlx.runtime:is_mlx_available", Does(
        "os.environ.get('UNSLOTH_FORCE_GPU_PATH', '0') != '1'",
    ), OTHERS, '"UNSLOTH_FORCE_GPU_PATH": "1"'),
    # families with layers of its own, which are not compiled, and all others, which are
    (f"{LOADER}:FastLanguageModel.from_pretrained", Does(
        *(f"model_type == {name!r}" for name in sorted(WITH_UNSLOTH_LAYERS)),
    ), "kit/models/families.py", "WITH_UNSLOTH_LAYERS"),
    (f"{LOADER}:FastModel.from_pretrained",
     Does("unsloth_compile_transformers"), "kit/run/notes.py", "no layers of its own"),
    # checkpointing: what is recorded, what None means, and from how many tokens on it is offloaded
    (f"{LLAMA}:FastLlamaModel.get_peft_model", Does(
        "transformers_set_seed(random_state)",
        "apply_unsloth_gradient_checkpointing(use_gradient_checkpointing, max_seq, dtype)",
        "model._unsloth_gradient_checkpointing = use_gradient_checkpointing",
    ), METHODS, "FastLanguageModel.get_peft_model"),
    ("unsloth.models._utils:resolve_training_gradient_checkpointing", Does(
        "if use_gradient_checkpointing is not None:\n    return use_gradient_checkpointing",
        "return model._unsloth_gradient_checkpointing",
    ), METHODS, "use_gradient_checkpointing=True"),
    (f"{LLAMA}:FastLlamaModel.for_training", Does(
        "set_module_gradient_checkpointing(module, use_gradient_checkpointing)",
    ), METHODS, "FastLanguageModel.for_training"),
    (f"{LLAMA}:FastLlamaModel.for_inference",
     Does("module.gradient_checkpointing = False"), GENERATION, "for_inference"),
    (f"{CPU}.for_training", Does(
        "model.train()",
        "model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={'use_reentrant': False})",
    ), METHODS, "FastLanguageModel.for_training"),
    (f"{CPU}.get_peft_model", Does("torch.manual_seed(random_state)"), METHODS, "random_state=run.seed"),
    (f"{CPU}.get_peft_model", Takes(
        *(passed(METHODS, "FastLanguageModel.get_peft_model") - {"rank_pattern"}),
    ), METHODS, "FastLanguageModel.get_peft_model"),
    (f"{LLAMA}:FastLlamaModel.get_peft_model", Takes(
        *(passed(METHODS, "FastLanguageModel.get_peft_model") - {"rank_pattern"}),
    ), METHODS, "FastLanguageModel.get_peft_model"),
    (f"{CPU}.get_peft_model", Takes("kwargs"), METHODS, "rank_pattern"),
    ("unsloth.models._utils:apply_unsloth_gradient_checkpointing", Does(
        "max_seq_length < 512",
    ), ACTIVATIONS, "OFFLOADED_FROM_LENGTH_TOKENS = 512"),
    (f"{OFFLOADING}:initialize_unsloth_gradient_checkpointing", Does(
        "MINIMUM_SIZE = 2 * 1024 * 1024",
    ), ACTIVATIONS, "OFFLOADED_FROM_BYTES = 2 << 20"),
    (f"{OFFLOADING}:_pinned_block_bytes", Does(
        "1 << (int(nbytes) - 1).bit_length()",
    ), ACTIVATIONS, "1 << (block - 1).bit_length()"),
    (f"{OFFLOADING}:FP32_OFFLOAD_EXACT", Does(
        "os.environ.get('UNSLOTH_OFFLOAD_FP32', 'bf16').lower() == 'exact'",
    ), ENVIRONMENT, '"UNSLOTH_OFFLOAD_FP32", "exact"'),
    # without gradients a padded batch has a mask of every pair of tokens
    (f"{LLAMA}:LlamaModel_fast_forward", Does(
        "_prepare_4d_causal_attention_mask_for_sdpa(attention_mask, (batch_size, seq_length), inputs_embeds, "
        "past_key_values_length, sliding_window=band)",
    ), ACTIVATIONS, "_fused_forward_bytes"),
    ("transformers.modeling_attn_mask_utils:AttentionMaskConverter._expand_mask", Does(
        "mask[:, None, None, :].expand(bsz, 1, tgt_len, src_len).to(dtype)",
        "inverted_mask.masked_fill(inverted_mask.to(torch.bool), torch.finfo(dtype).min)",
    ), ACTIVATIONS, "3 * width + 1"),
    # an adapter goes where it is told; by itself PEFT takes any GPU that it finds
    ("peft.peft_model:PeftModel.load_adapter", Does(
        "torch_device = infer_device()",
        "load_peft_weights(model_id, device=torch_device, key_mapping=key_mapping, **hf_hub_download_kwargs)",
    ), ADAPTERS, "torch_device=device"),
    # dropout within the kernels, which keep a mask for each adapter
    ("unsloth.kernels.fast_lora:FUSED_LORA_DROPOUT", Does(
        "os.environ.get('UNSLOTH_FUSED_LORA_DROPOUT', '1') != '0'",
    ), ACTIVATIONS, "their kernels compute dropout too"),
    ("unsloth.kernels.fast_lora:LoRA_MLP.forward",
     Does("masks = (gate_mask, up_mask, down_mask)"), ACTIVATIONS, "a byte each"),
    ("unsloth.kernels.fast_lora:LoRA_QKV.forward",
     Does("masks = (Q_mask, K_mask, V_mask)"), ACTIVATIONS, "a byte each"),
    # rotary positions: stretched behind the caller's back unless he names how they are to be
    (f"{LLAMA}:FastLlamaModel.from_pretrained", Does(
        "rope_scaling is not None",
        "not caller_rope_scaling and max_seq_length > model_max_seq_length",
        "_rope_type not in ('linear', 'yarn', 'llama3')",
        "rope_scaling = None",
    ), LOADING, "rope_scaling"),
    # how many logits at once
    (f"{CHUNKS}:_CHUNK_GB", Does("_env_float('UNSLOTH_LOGPROB_CHUNK_GB', 2.0)"), ENVIRONMENT, "return 2 * GIB"),
    (f"{CHUNKS}:_budget_bytes", Does("min(_CHUNK_GB, free)"), ENVIRONMENT, "LOGITS_GIB"),
    ("unsloth_zoo.fused_losses.chunked_logprob:_FUSED_LINEAR", Does(
        "os.environ.get('UNSLOTH_FUSED_LINEAR', '1') != '0'",
    ), ACTIVATIONS, "fused_linear.py"),
    (f"{CHUNKS}:_MIN_LOGITS", Does("512 * 151936"), ACTIVATIONS, "UNSLOTH_FEWEST_LOGITS"),
    (f"{CHUNKS}:_MAX_ROWS", Does(
        "max(int(_env_float('UNSLOTH_FUSED_LINEAR_MAX_ROWS', 4096)), 1)",
    ), ACTIVATIONS, "UNSLOTH_MOST_ROWS"),
    (f"{CHUNKS}:fused_linear_rows", Does(
        "_pow2(n_rows * hidden_size / max(vocab_size, 1))", "min(max(min_rows, 512), _MAX_ROWS)",
        "_budget_bytes(device) // max(vocab_size * bytes_per_logit, 1)",
    ), ACTIVATIONS, "unsloth_logits_rows"),
    (f"{CHUNKS}:_tiled_layout", Does("min(_BWD_TILE_BYTES, _budget_bytes(device))"), ACTIVATIONS, "UNSLOTH_TILE"),
    (f"{CHUNKS}:_SPLIT_COLS", Does(
        "max(int(_env_float('UNSLOTH_FUSED_LINEAR_SPLIT_COLS', 16384)), 0)",
    ), ACTIVATIONS, "UNSLOTH_TILE = (4096, 16384)"),
    ("unsloth_zoo.cpu.ops:chunked_linear_cross_entropy", Does(
        "max(16, int(os.environ.get('UNSLOTH_CPU_CE_CHUNK_ELEMENTS', 16 * 1024 * 1024)) // weight.shape[0])",
    ), ACTIVATIONS, "UNSLOTH_CPU_LOGITS = 16 << 20"),
    ("unsloth_zoo.loss_utils:count_batch_items", Does("labels[..., 1:] != -100"),
     "kit/backend/training.py", '[:, 1:] != IGNORED).sum()'),
    # texts that are matched
    (f"{LLAMA}:unsloth_fast_generate", Says("exceeds the maximum sequence length of"), GENERATION, "generate"),
)  # fmt: skip

LOADED = contracts(
    # transformers: what is passed on through **kwargs
    ("transformers.modeling_utils:PreTrainedModel.from_pretrained", Takes(
        *passed(LOADING, "AutoModelForCausalLM.from_pretrained"),
    ), LOADING, "AutoModelForCausalLM.from_pretrained"),
    ("transformers.quantizers.quantizer_bnb_4bit:Bnb4BitHfQuantizer._process_model_after_weight_loading", Does(
        "setattr(model, 'is_loaded_in_4bit', True)",
    ), LOADING, '"is_loaded_in_4bit"'),
    ("transformers.modeling_utils:PreTrainedModel.set_attn_implementation",
     Takes("attn_implementation"), LOADING, "set_attn_implementation"),
    ("transformers.modeling_utils:PreTrainedModel.gradient_checkpointing_enable", Takes(
        *passed(METHODS, "model.gradient_checkpointing_enable"),
    ), METHODS, "gradient_checkpointing_enable"),
    ("transformers.modeling_utils:PreTrainedModel.enable_input_require_grads",
     Does("input_embeddings.register_forward_hook(make_inputs_require_grads)"), METHODS, "enable_input_require_grads"),
    ("transformers.modeling_utils:PreTrainedModel.save_pretrained",
     Takes("state_dict"), "kit/backend/saving.py", "state_dict=saved"),
    # strangers' files: a config.json that names code, a tokenizer_config.json that names files, a template that does
    ("transformers.configuration_utils:PreTrainedConfig.__post_init__", Does(
        "key not in ('_attn_implementation_internal', '_experts_implementation_internal')",
    ), LOADING, "trust_remote_code=False"),
    ("transformers.dynamic_module_utils:resolve_trust_remote_code", Does(
        "has_remote_code and (not has_local_code) and (not trust_remote_code)",
    ), LOADING, "trust_remote_code=False"),
    ("transformers.tokenization_utils_base:PreTrainedTokenizerBase._from_pretrained", Does(
        "if args_name not in kwargs or kwargs[args_name] is None:\n    init_kwargs[args_name] = file_path",
    ), LOADING, "AutoTokenizer.from_pretrained"),
    ("transformers.tokenization_utils_base:PreTrainedTokenizerBase.save_chat_templates", Does(
        "Path(template_filepath).resolve().parent != Path(chat_template_dir).resolve()",
    ), "kit/backend/saving.py", "loaded.tokenizer.save_pretrained"),
    ("transformers.configuration_utils:PreTrainedConfig.__post_init__", Does(
        "kwargs.pop('attn_implementation', None)", "kwargs.pop('experts_implementation', None)",
    ), "kit/models/named_code.py", "_implementation"),
    (f"{CPU}.from_pretrained", Takes("attn_implementation"), LOADING, "FIRST_ATTENTION"),
    # templates, which the kit renders itself
    ("transformers.utils.chat_template_utils:_cached_compile_jinja_template", Does(
        "ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, "
        "extensions=[AssistantTracker, jinja2.ext.loopcontrols])",
        "tags = {'generation'}",
        "jinja_env.filters['tojson'] = tojson",
        "jinja_env.globals['raise_exception'] = raise_exception",
        "jinja_env.globals['strftime_now'] = strftime_now",
        "json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)",
    ), "kit/prompt/rendering.py", "trim_blocks=True, lstrip_blocks=True"),
    # asking
    ("transformers.generation.utils:GenerationMixin.generate", Does(
        "streamer.put(input_ids.cpu())",
    ), GENERATION, "self.is_prompt = True"),
    ("transformers.generation.utils:GenerationMixin._sample", Does(
        "stop_check(unfinished_sequences, next_tokens, input_ids.shape[1])", "streamer.end()",
        "stopping_criteria(input_ids, scores)",
    ), GENERATION, "def end(self)"),
    ("transformers.generation.utils:StopCheck.__call__", Does(
        "self.streamer.put(tokens.cpu())",
    ), GENERATION, "def put(self, value"),
    ("transformers.generation.utils:DeferredStopCheck.is_supported", Does(
        "device.type != 'mps' or is_assistant",
    ), GENERATION, "def put(self, value"),
    ("transformers.generation.configuration_utils:GenerationConfig.__init__", Takes(
        *(passed(GENERATION, "loaded.model.generate") - {"input_ids", "attention_mask"}),
    ), GENERATION, "loaded.model.generate"),
    ("transformers.generation.stopping_criteria:StoppingCriteriaList.__call__", Does(
        "is_done = is_done | criteria(input_ids, scores, **kwargs)",
    ), GENERATION, "def stop(self, input_ids"),
    # transformers' server with the model that is there
    ("transformers.cli.serving.model_manager:ModelManager.__init__",
     Takes("force_model", "device"), SERVING, "force_model=name"),
    ("transformers.cli.serving.model_manager:ModelManager.load_model_and_processor", Does(
        "self._load_processor(model_id_and_revision, gguf_file=gguf_file)",
    ), SERVING, "def _load_processor"),
    ("transformers.cli.serving.server:build_server", Says("/v1/models"), SERVING, "def get_gen_models"),
)  # fmt: skip

ADAPTED = contracts(
    (f"{TUNER}:BaseTunerLayer._cast_input_dtype", Does(
        "getattr(self, 'cast_input_dtype_enabled', True)",
        "not cast_input_dtype_enabled or x.dtype == dtype",
    ), METHODS, "cast_input_dtype_enabled = False"),
    ("peft.tuners.lora.layer:LoraLayer.__init__", Does("self.lora_A = nn.ModuleDict({})"), CANDIDATES, "module.lora_A"),
    ("peft.tuners.ia3.layer:IA3Layer.__init__", Does("self.ia3_l = nn.ParameterDict({})"), METHODS, '"ia3_l"'),
    ("peft.tuners.lora.layer:Linear.get_delta_weight", Takes("adapter"), CANDIDATES, "get_delta_weight"),
    (f"{TUNER}:BaseTunerLayer.get_base_layer", IsThere(), CANDIDATES, "get_base_layer"),
    (f"{LORA}.add_weighted_adapter",
     Takes("adapters", "weights", "adapter_name", "combination_type"), CANDIDATES, "add_weighted_adapter"),
    (f"{TUNER}:BaseTuner.unload", IsThere(), CANDIDATES, "tuned.unload()"),
    ("peft.peft_model:PeftModel.set_adapter", Takes("adapter_name"), ADAPTERS, "set_adapter"),
    ("peft.peft_model:PeftModel.load_adapter", Takes("adapter_name"), ADAPTERS, "load_adapter"),
    ("peft.peft_model:PeftModel.disable_adapter", Does("yield"), ADAPTERS, "disable_adapter"),
    ("peft.peft_model:PeftModel.active_peft_config", IsThere(), ADAPTERS, "active_peft_config"),
    ("peft.config:PromptLearningConfig.is_prompt_learning", Does("True"), ADAPTERS, "is_prompt_learning"),
    ("peft.peft_model:PeftModel._adjust_prompt_learning_kwargs",
     Says("Position ids are not supported"), SERVING, "Position ids are not supported"),
    ("peft.utils.merge_utils:task_arithmetic",
     Takes("task_tensors", "weights"), MERGING, "task_arithmetic(deltas, weights)"),
    ("peft.utils.merge_utils:ties", Takes("task_tensors", "weights", "density"), MERGING, "combine(deltas, weights"),
    ("peft.utils.merge_utils:dare_linear",
     Takes("task_tensors", "weights", "density"), MERGING, "combine(deltas, weights"),
    # bitsandbytes
    (f"{BNB}:Linear4bit.__init__",
     Does("self.support_avx512bf16_for_cpu = has_avx512bf16()"), LOADING, "support_avx512bf16_for_cpu"),
    (f"{BNB}:Linear4bit.forward", Does(
        "x.device.type == 'cpu' and self.support_avx512bf16_for_cpu and (not self.training) "
        "and (x.requires_grad == False) and (not getattr(quant_state, 'packing_format_for_cpu', False))",
    ), LOADING, "support_avx512bf16_for_cpu"),
    (f"{BNB}:Params4bit.__new__", Does("blocksize = 64"), WEIGHTS, "NF4_BLOCK = 64"),
    (f"{QUANTISE}:quantize_4bit", Does(
        "quantize_blockwise(_absmax - offset, blocksize=256)",
    ), WEIGHTS, "NF4_NESTED_BLOCK = 256"),
    (f"{QUANTISE}:QuantState.as_dict",
     Does("'absmax'", "'quant_map'", "'nested_absmax'", "'nested_quant_map'", "'quant_state.bitsandbytes__'"),
     "kit/models/change.py", '"nested_quant_map"'),
    (f"{QUANTISE}:dequantize_4bit", Takes("A", "quant_state"), MERGING, "dequantize_4bit"),
    # data sets
    ("datasets.arrow_dataset:Dataset.from_dict", Takes("mapping"), "kit/backend/training.py", "Dataset.from_dict"),
    ("datasets.arrow_dataset:Dataset.with_transform", Takes("transform"), "kit/backend/training.py", "with_transform"),
    ("datasets.config:HF_UPDATE_DOWNLOAD_COUNTS",
     Does("'HF_UPDATE_DOWNLOAD_COUNTS'"), HUB, "HF_UPDATE_DOWNLOAD_COUNTS"),
    ("huggingface_hub.hf_api:HfApi.model_info",
     Takes(*passed("kit/models/find.py", "HfApi().model_info")), "kit/models/find.py", "model_info"),
)  # fmt: skip

CONTRACTS: tuple[Contract, ...] = (*UNSLOTH, *LOADED, *ADAPTED)
