"""The names under which transformers' models hold their own body: `base_model_prefix` of every class of 5.23.0.

`GPT2LMHeadModel` keeps a `GPT2Model` under `transformer`, so its checkpoints say `transformer.h.0` where those of the
bare model say `h.0`. Read from the class attributes in the installed sources; a test compares the table with them.
"""

from __future__ import annotations

_WRAPPERS = """
    aimv2 albert align altclip audio_spectrogram_transformer backbone beit bert biogpt bit blip bridgetower bros
    canine chinese_clip chmv2 clap clip convbert convnext convnextv2 cpmant cvt dac data2vec_audio data2vec_text
    data2vec_vision deberta decision_transformer deit depth_anything depth_pro dinat dinov2 dinov2_with_registers
    distilbert donut dpt edgetam edgetam_video efficientloftr efficientnet electra emuvideovq encodec
    encoder_decoder eomt eomt_dinov3 ernie esm esmc esmfold2 fastspeech2_conformer flava fnet focalnet funnel git
    glpn gpt_neox gpt_neox_japanese groupvit gte hgnetv2 hiera higgs_audio_v2_tokenizer hubert ibert ijepa
    internvl_vision language_model layoutlm layoutlmv2 layoutlmv3 led levit lightglue lilt longformer luke
    lw_detr_vit lxmert markuplm metaclip_2 mgp_str mimi mobilebert mobilenet_v1 mobilenet_v2 mobilevit mobilevitv2
    model mpnet mra neucodec nomic_bert nystromformer owlv2 owlvit perceiver phi4_vision pixio
    pocket_tts_audio_tokenizer poolformer prompt_depth_anything prophetnet pvt pvt_v2 rag reformer regnet rembert
    resnet rf_detr_dinov2 roberta roberta_prelayernorm roc_bert roformer rwkv sam sam2 sam2_video sam3 sam3_tracker
    sam3_video sam_hq seamless_m4t seamless_m4t_v2 segformer sew sew_d siglip siglip2 speech_encoder_decoder
    speecht5 splinter superglue superpoint swiftformer swin swin2sr swinv2 switch_transformers tapas textnet
    timesformer timm_model transformer unispeech unispeech_sat vibevoice_acoustic_tokenizer videomae videomt vilt
    vision_encoder_decoder vision_text_dual_encoder visual_bert vit vitdet vits vivit vjepa2 vlm wav2vec2
    wav2vec2_bert wav2vec2_conformer wavlm x_clip xcodec xcodec2 yoso zoedepth
"""

# Also values of that attribute, but ordinary children of other models (T5 has an encoder beside a decoder, CLIP a text
# model beside a vision model): taking them off would give two parameters one name. Dotted values are left out too.
_PARTS = """
    audio_model audio_video_encoder bert_model coarse_acoustics ctx_encoder decoder detector_model encoder
    fine_acoustics question_encoder semantic span_predictor talker text_model tracker_model video_model
    vision_encoder vision_model
"""

MODEL_PREFIXES = frozenset(_WRAPPERS.split())
AMBIGUOUS_PREFIXES = frozenset(_PARTS.split())
