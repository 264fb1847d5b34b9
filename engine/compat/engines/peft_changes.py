"""Which configuration keys each release of PEFT knows, by type.

Made by `python -m tests.engines.derive_peft_keys` from the sources in the wheels of 0.10.0 to 0.21.2: the fields of the
dataclass that sets each type. `make test-engines` derives it again. Keys change with minor releases alone.
"""

from __future__ import annotations

BASE = frozenset(("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "revision", "task_type"))
"""Keys of every type in every release."""

# release, type, the keys that came after +, those that went after -
CHANGES = """
0.10 ADALORA + alpha_pattern beta1 beta2 bias deltaT fan_in_fan_out init_lora_weights init_r layer_replication
  layers_pattern layers_to_transform loftq_config lora_alpha lora_dropout megatron_config megatron_core
  modules_to_save orth_reg_weight r rank_pattern target_modules target_r tfinal tinit total_step use_dora use_rslora
0.10 ADAPTION_PROMPT + adapter_layers adapter_len target_modules
0.10 IA3 + fan_in_fan_out feedforward_modules init_ia3_weights modules_to_save target_modules
0.10 LOHA + alpha alpha_pattern init_weights layers_pattern layers_to_transform module_dropout modules_to_save r
  rank_dropout rank_pattern target_modules use_effective_conv2d
0.10 LOKR + alpha alpha_pattern decompose_both decompose_factor init_weights layers_pattern layers_to_transform
  module_dropout modules_to_save r rank_dropout rank_pattern target_modules use_effective_conv2d
0.10 LORA + alpha_pattern bias fan_in_fan_out init_lora_weights layer_replication layers_pattern layers_to_transform
  loftq_config lora_alpha lora_dropout megatron_config megatron_core modules_to_save r rank_pattern target_modules
  use_dora use_rslora
0.10 MULTITASK_PROMPT_TUNING + num_attention_heads num_layers num_ranks num_tasks num_transformer_submodules
  num_virtual_tokens prompt_tuning_init prompt_tuning_init_state_dict_path prompt_tuning_init_task
  prompt_tuning_init_text token_dim tokenizer_kwargs tokenizer_name_or_path
0.10 OFT + alpha_pattern block_share coft eps init_weights layers_pattern layers_to_transform module_dropout
  modules_to_save r rank_pattern target_modules
0.10 POLY + init_weights modules_to_save n_skills n_splits n_tasks poly_type r target_modules
0.10 PREFIX_TUNING + encoder_hidden_size num_attention_heads num_layers num_transformer_submodules
  num_virtual_tokens prefix_projection token_dim
0.10 PROMPT_TUNING + num_attention_heads num_layers num_transformer_submodules num_virtual_tokens prompt_tuning_init
  prompt_tuning_init_text token_dim tokenizer_kwargs tokenizer_name_or_path
0.10 P_TUNING + encoder_dropout encoder_hidden_size encoder_num_layers encoder_reparameterization_type
  num_attention_heads num_layers num_transformer_submodules num_virtual_tokens token_dim
0.11 BOFT + bias boft_block_num boft_block_size boft_dropout boft_n_butterfly_factor fan_in_fan_out init_weights
  layers_pattern layers_to_transform modules_to_save target_modules
0.11 LN_TUNING + modules_to_save target_modules
0.11 VERA + bias d_initial fan_in_fan_out init_weights layers_pattern layers_to_transform modules_to_save
  projection_prng_key r save_projection target_modules vera_dropout
0.12 ADALORA + runtime_config
0.12 FOURIERFT + bias fan_in_fan_out init_weights layers_pattern layers_to_transform modules_to_save n_frequency
  n_frequency_pattern random_loc_seed scaling target_modules
0.12 HRA + apply_GS bias init_weights layers_pattern layers_to_transform modules_to_save r target_modules
0.12 LORA + runtime_config
0.12 XLORA + adapters enable_softmax enable_softmax_topk global_scaling_weight hidden_size layerwise_scalings
  scaling_pass_value softmax_temperature top_k_lora use_trainable_adapters xlora_depth xlora_dropout_p xlora_size
0.13 VBLORA + bias fan_in_fan_out init_logits_std init_vector_bank_bound layers_pattern layers_to_transform
  modules_to_save num_vectors r save_only_topk_weights target_modules topk vblora_dropout vector_length
0.14 ADALORA + eva_config exclude_modules lora_bias
0.14 BOFT + exclude_modules
0.14 BONE + bias exclude_modules init_weights layers_pattern layers_to_transform modules_to_save r target_modules
0.14 CPT + cpt_mask cpt_token_ids cpt_tokens_type_mask num_attention_heads num_layers num_transformer_submodules
  num_virtual_tokens opt_loss_decay_factor opt_projection_epsilon opt_projection_format_epsilon
  opt_weighted_loss_type token_dim tokenizer_name_or_path
0.14 FOURIERFT + exclude_modules
0.14 HRA + exclude_modules
0.14 IA3 + exclude_modules
0.14 LN_TUNING + exclude_modules
0.14 LOHA + exclude_modules
0.14 LOKR + exclude_modules rank_dropout_scale
0.14 LORA + eva_config exclude_modules lora_bias
0.14 OFT + bias exclude_modules fan_in_fan_out oft_block_size
0.14 POLY + exclude_modules
0.14 VBLORA + exclude_modules
0.15 ADALORA + corda_config trainable_token_indices
0.15 LORA + corda_config trainable_token_indices
0.15 OFT + - alpha_pattern rank_pattern
0.15 TRAINABLE_TOKENS + init_weights target_modules token_indices
0.16 ADALORA + qalora_group_size use_qalora
0.16 C3A + bias block_size block_size_pattern init_weights layers_pattern layers_to_transform modules_to_save
  target_modules
0.16 LORA + qalora_group_size use_qalora
0.16 OFT + num_cayley_neumann_terms use_cayley_neumann
0.16 RANDLORA + bias fan_in_fan_out init_weights layers_pattern layers_to_transform modules_to_save
  projection_prng_key r randlora_alpha randlora_dropout save_projection sparse target_modules very_sparse
0.17 ADALORA + target_parameters
0.17 CPT + modules_to_save
0.17 LORA + target_parameters
0.17 MISS + bias exclude_modules init_weights layers_pattern layers_to_transform mini_r miss_dropout modules_to_save
  r target_modules
0.17 MULTITASK_PROMPT_TUNING + modules_to_save
0.17 PREFIX_TUNING + modules_to_save
0.17 PROMPT_TUNING + modules_to_save
0.17 P_TUNING + modules_to_save
0.17 SHIRA + fan_in_fan_out init_weights mask_type modules_to_save r random_seed target_modules
0.18 ADALORA + alora_invocation_tokens arrow_config ensure_weight_tying peft_version
0.18 ADAPTION_PROMPT + peft_version
0.18 BOFT + peft_version
0.18 BONE + peft_version
0.18 C3A + peft_version
0.18 CPT + peft_version
0.18 DELORA + bias delora_lambda exclude_modules init_weights lambda_pattern layers_pattern layers_to_transform
  module_dropout modules_to_save peft_version r rank_pattern target_modules
0.18 FOURIERFT + peft_version
0.18 HRA + peft_version
0.18 IA3 + peft_version
0.18 LN_TUNING + peft_version
0.18 LOHA + peft_version
0.18 LOKR + peft_version
0.18 LORA + alora_invocation_tokens arrow_config ensure_weight_tying peft_version
0.18 MISS + peft_version
0.18 MULTITASK_PROMPT_TUNING + peft_version
0.18 OFT + peft_version
0.18 OSF + effective_rank init_weights modules_to_save peft_version rank_pattern target_modules target_svd_config
0.18 POLY + peft_version
0.18 PREFIX_TUNING + peft_version
0.18 PROMPT_TUNING + peft_version
0.18 P_TUNING + peft_version
0.18 RANDLORA + peft_version
0.18 ROAD + group_size init_weights modules_to_save peft_version target_modules variant
0.18 SHIRA + peft_version
0.18 TRAINABLE_TOKENS + peft_version
0.18 VBLORA + peft_version
0.18 VERA + peft_version
0.18 WAVEFT + bias exclude_modules fan_in_fan_out init_weights layers_pattern layers_to_transform modules_to_save
  n_frequency n_frequency_pattern peft_version proportional_parameters random_loc_seed scaling target_modules
  use_idwt wavelet_family
0.18 XLORA + peft_version
0.19 ADALORA + lora_ga_config use_bdlora
0.19 ADAMSS + asa_importance_beta asa_schedule_exponent asa_target_subspaces asa_uncertainty_beta final_warmup
  init_warmup init_weights layers_pattern layers_to_transform mask_interval modules_to_save num_subspaces
  peft_version r subspace_rank svd_threshold target_modules use_asa use_dynamic_rank
0.19 BONE + - bias exclude_modules init_weights layers_pattern layers_to_transform modules_to_save peft_version r
  target_modules
0.19 CARTRIDGE + modules_to_save num_attention_heads num_frozen_tokens num_layers num_transformer_submodules
  num_virtual_tokens peft_version token_dim
0.19 GRALORA + alpha bias fan_in_fan_out gralora_dropout gralora_k hybrid_r init_weights layers_pattern
  layers_to_transform modules_to_save peft_version r target_modules
0.19 LILY + exclude_modules init_weights layers_pattern layers_to_transform modules_to_save num_B peft_version r
  scaling stride_A target_modules
0.19 LORA + lora_ga_config use_bdlora
0.19 PEANUT + act_fn depth exclude_modules init_weights layers_pattern layers_to_transform modules_to_save
  peft_version r scaling target_modules
0.19 PREFIX_TUNING + init_weights
0.19 PSOFT + ab_svd_init cayley_neumann_eps exclude_modules fan_in_fan_out init_weights layers_pattern
  layers_to_transform modules_to_save num_cayley_neumann_terms peft_version psoft_alpha psoft_dropout psoft_mag_a
  psoft_mag_b psoft_orth psoft_svd psoft_svd_lowrank_niter r target_modules use_cayley_neumann
0.19 PVERA + bias d_initial fan_in_fan_out init_weights layers_pattern layers_to_transform modules_to_save
  peft_version projection_prng_key pvera_dropout r sample_at_inference save_projection target_modules
0.19 TINYLORA + bias fan_in_fan_out init_v_bound init_weights layers_pattern layers_to_transform modules_to_save
  peft_version projection_seed r save_projection target_modules tinylora_dropout u weight_tying
0.20 ADALORA + monteclora_config velora_config
0.20 ADAMSS + random_seed
0.20 BEFT + init_weights modules_to_save peft_version target_modules
0.20 DEFT + alpha bias decomposition_method deft_dropout exclude_modules fan_in_fan_out init_scale init_weights
  layers_pattern layers_to_transform modules_to_save para peft_version r target_modules
0.20 FROD + bias fan_in_fan_out frod_dropout init_weights layers_pattern layers_to_transform modules_to_save
  peft_version progressbar projection_prng_key regularization_alpha runtime_offload_base_weight save_projection
  sparse_rate target_modules
0.20 GLORA + bias config_A_B config_C config_D_E init_weights modules_to_save peft_version r target_modules
0.20 HIRA + exclude_modules fan_in_fan_out hira_dropout init_weights layers_pattern layers_to_transform
  modules_to_save peft_version r rank_pattern target_modules
0.20 LORA + monteclora_config velora_config
0.20 PSOFT + random_seed
0.20 PVERA + generator_seed
0.20 UNILORA + bias fan_in_fan_out init_theta_d_bound init_weights layers_pattern layers_to_transform
  modules_to_save peft_version proj_seed r save_indices target_modules theta_d_length unilora_dropout
0.21 ADALORA + kasa_config
0.21 LORA + kasa_config
0.21 SHADOW + auxiliary_loss_weight exclude_modules init_weights layers_pattern layers_to_transform modules_to_save
  peft_version r shadow_alpha shadow_dropout shadow_hidden_size shadow_intermediate_size shadow_model
  shadow_num_attention_heads shadow_num_hidden_layers share_embeddings target_modules update_hidden_size
0.21 SUPERTUNING + init_weights lora_alpha lora_dropout modules_to_save peft_version r save_precomputed_indices
  select_top sparsity target_modules
"""
