"""Model families whose checkpoints hold other parameter names than their modules have.

transformers renames or fuses their tensors when it loads them and back when it saves, so a module that an adapter names
need not be found in the headers of its base. Read from `transformers.conversion_mapping` of 5.23.0, its class names
turned into model types; a test compares the table with the installed one.
"""

from __future__ import annotations

_TYPES = """
    afmoe altclip altclip_vision_model aria aria_text audio-spectrogram-transformer audioflamingo3 axk1 axk2
    aya_vision bailing_hybrid beam beit chinese_clip_vision_model clip_text_model clip_vision_model
    clipseg_text_model clipseg_vision_model cohere2_moe cohere_asr colqwen2 conditional_detr cosmos3_edge
    cosmos3_omni d_fine deepseek_ocr2 deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 deformable_detr deit detr
    dinov2 dinov2_with_registers dinov3_convnext dinov3_vit dots1 dots3_note dots3_note_audio_encoder
    dots3_note_text dots3_note_vision_encoder emu3 ernie4_5_moe ernie4_5_vl_moe esm exaone_moe flex_olmo flint fuyu
    gemma3 gemma3n_text gemma4_unified glm4_moe glm4_moe_lite glm4v_moe glm5_next glm5_next_text glm_moe_dsa glmasr
    got_ocr2 gpt_neox gradium_phonon_tts granite_speech granite_speech_plus granitemoe granitemoehybrid
    granitemoeshared gte hrm_text hunyuan_v1_moe hunyuan_vl hy_v3 hy_v4 hyperclovax_vision_v2 ijepa inkling2
    inkling2_text inkling_mm_model internvl jamba jev jina_embeddings_v3 kimi_k25 kimi_linear kolibri1 laguna
    lfm2_moe lfm3 lfm3_vl_vision llava llava_next llava_next_video llava_onevision longcat_flash lw_detr maskformer
    mellum metaclip_2_text_model metaclip_2_vision_model mimi mimi_decoder mimi_encoder mimo_v2_flash minimax
    minimax_m2 minimax_m3_vl mistral3 mistral_large4 mistral_large4_text mixtral mlcd mlcd_vision mllama molmo2
    molmo2_text musicflamingo nemo_speechlm nemotron_h nemotron_h_omni nomic_bert olmo_hybrid olmoe paddleocr_vl
    paligemma phimoe pi0 pixio pp_chart2table pp_doclayout_v2 pp_doclayout_v3 pp_doclayout_v4 qianfan_ocr
    qwen2_5_omni_thinker qwen2_5_vl qwen2_audio qwen2_moe qwen2_vl qwen3_5_moe_text qwen3_5_text qwen3_moe
    qwen3_next qwen3_omni_moe qwen3_omni_moe_text qwen3_omni_moe_thinker qwen3_vl_moe qwen4_exp_text radio rf_detr
    rt_detr rt_detr_v2 sam3_tracker sam3_tracker_video sapiens2 segformer shieldgemma2 siglip2_text_model
    siglip2_vision_model siglip_text_model siglip_vision_model solar_open step3p5_vision step3p7 swin
    t5gemma2_encoder timesfm2_5 timm_wrapper tipsv2 tipsv2_dpt tipsv2_text_model tipsv2_vision_model ultrabert
    ultravbert unlimited_ocr unlimited_ocr_text vibevoice_asr video_llava videomae vipllava vit vit_mae vit_msn
    vivit voxtral voxtral_realtime xCLIPTextModel xCLIPVisionModel yolos
"""

RENAMED_TYPES = frozenset(_TYPES.split())
