/** The smallest plausible config.json of each architecture, by its id: a new architecture gets one here. */

const SIZES = {
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 300,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-6,
  rope_theta: 10_000,
  hidden_act: 'silu',
  tie_word_embeddings: false,
  torch_dtype: 'bfloat16',
}

const EXPERTS = { num_experts: 4, num_experts_per_tok: 2, moe_intermediate_size: 32 }

const MUP = { scale_emb: 12, scale_depth: 1.4, dim_model_base: 32 }

const of = (className: string, type: string, more: object = {}): Readonly<Record<string, unknown>> => ({
  ...SIZES,
  architectures: [className],
  model_type: type,
  ...more,
})

export const CONFIGS: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  llama: of('LlamaForCausalLM', 'llama'),
  mistral: of('MistralForCausalLM', 'mistral', { sliding_window: null }),
  qwen2: of('Qwen2ForCausalLM', 'qwen2'),
  qwen3: of('Qwen3ForCausalLM', 'qwen3', { head_dim: 16 }),
  mixtral: of('MixtralForCausalLM', 'mixtral', { num_local_experts: 4, num_experts_per_tok: 2 }),
  qwen2moe: of('Qwen2MoeForCausalLM', 'qwen2_moe', {
    ...EXPERTS,
    norm_topk_prob: false,
    shared_expert_intermediate_size: 48,
  }),
  qwen3moe: of('Qwen3MoeForCausalLM', 'qwen3_moe', { ...EXPERTS, head_dim: 16, norm_topk_prob: true }),
  gemma2: of('Gemma2ForCausalLM', 'gemma2', {
    head_dim: 16,
    hidden_activation: 'gelu_pytorch_tanh',
    attn_logit_softcapping: 50,
    final_logit_softcapping: 30,
    query_pre_attn_scalar: 16,
    sliding_window: 32,
    tie_word_embeddings: true,
  }),
  phi3: of('Phi3ForCausalLM', 'phi3', { original_max_position_embeddings: 128, sliding_window: null, pad_token_id: 0 }),
  gpt2: {
    architectures: ['GPT2LMHeadModel'],
    model_type: 'gpt2',
    n_embd: 64,
    n_layer: 2,
    n_head: 4,
    n_positions: 128,
    vocab_size: 300,
    activation_function: 'gelu_new',
    torch_dtype: 'bfloat16',
  },
  bert: of('BertModel', 'bert', { hidden_act: 'gelu', layer_norm_eps: 1e-12, type_vocab_size: 2, pad_token_id: 0 }),
  distilbert: {
    architectures: ['DistilBertModel'],
    model_type: 'distilbert',
    dim: 64,
    hidden_dim: 96,
    n_heads: 4,
    n_layers: 2,
    activation: 'gelu',
    max_position_embeddings: 128,
    pad_token_id: 0,
    vocab_size: 300,
    torch_dtype: 'bfloat16',
  },
  opt: of('OPTForCausalLM', 'opt', {
    ffn_dim: 96,
    activation_function: 'relu',
    do_layer_norm_before: true,
    word_embed_proj_dim: 64,
    tie_word_embeddings: true,
  }),
  t5: {
    architectures: ['T5ForConditionalGeneration'],
    model_type: 't5',
    d_model: 64,
    d_ff: 96,
    d_kv: 16,
    num_layers: 2,
    num_decoder_layers: 2,
    num_heads: 4,
    relative_attention_num_buckets: 32,
    relative_attention_max_distance: 128,
    feed_forward_proj: 'relu',
    is_encoder_decoder: true,
    decoder_start_token_id: 0,
    tie_word_embeddings: true,
    vocab_size: 300,
    torch_dtype: 'bfloat16',
  },
  minicpm: of('MiniCPMForCausalLM', 'minicpm', MUP),
  granite: of('GraniteForCausalLM', 'granite', {
    embedding_multiplier: 12,
    residual_multiplier: 0.22,
    attention_multiplier: 0.15,
    logits_scaling: 8,
  }),
}
