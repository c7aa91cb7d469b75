// libllama of node-llama-cpp through koffi: the low level that its JavaScript does not show. Structs are those of
// include/llama.h of llama.cpp v0.5.0; `load` checks them against the defaults that the library gives back, so that
// another version fails loudly instead of reading garbage.
import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'

const require = createRequire(import.meta.url)

/** The version whose structs are below. */
const VERSION = 'v0.5.0'

/** The folder of the native libraries, or null with the reason that there is none. */
export function libraryFolder() {
  const name = `${process.platform}-${process.arch}`
  if (name !== 'linux-x64')
    return { folder: null, reason: `llama.cpp is used as a judge on linux-x64 only, not ${name}` }
  let root
  try {
    root = path.dirname(require.resolve(`@node-llama-cpp/${name}/package.json`))
  } catch {
    // the package exports no package.json
    root = path.resolve(import.meta.dirname, `../../node_modules/@node-llama-cpp/${name}`)
  }
  const folder = path.join(root, 'bins', name)
  const file = path.join(folder, `libllama.${VERSION}.so`)
  if (!existsSync(file))
    return { folder: null, reason: `llama.cpp ${VERSION} (@node-llama-cpp/${name}) is not installed` }
  return { folder, reason: null }
}

/** Loads the libraries. Prints to stderr what they log. */
export function load() {
  const { folder, reason } = libraryFolder()
  if (folder === null) throw new Error(reason)
  const koffi = require('koffi')
  koffi.load(path.join(folder, 'libggml-base.so'), { global: true })
  const ggml = koffi.load(path.join(folder, `libggml.${VERSION}.so`), { global: true })
  const llama = koffi.load(path.join(folder, `libllama.${VERSION}.so`))
  koffi.struct('llama_model_params', {
    devices: 'void *',
    tensor_buft_overrides: 'void *',
    n_gpu_layers: 'int32_t',
    split_mode: 'int',
    load_mode: 'int',
    lazy_mode: 'int',
    main_gpu: 'int32_t',
    tensor_split: 'void *',
    progress_callback: 'void *',
    progress_callback_user_data: 'void *',
    kv_overrides: 'void *',
    vocab_only: 'bool',
    check_tensors: 'bool',
    use_extra_bufts: 'bool',
    no_host: 'bool',
    no_alloc: 'bool',
    load_mtp: 'bool',
  })
  koffi.struct('llama_context_params', {
    n_ctx: 'uint32_t',
    n_batch: 'uint32_t',
    n_ubatch: 'uint32_t',
    n_seq_max: 'uint32_t',
    n_rs_seq: 'uint32_t',
    n_outputs_max: 'uint32_t',
    n_outputs_max_per_seq: 'uint32_t',
    n_threads: 'int32_t',
    n_threads_batch: 'int32_t',
    ctx_type: 'int',
    rope_scaling_type: 'int',
    pooling_type: 'int',
    attention_type: 'int',
    flash_attn_type: 'int',
    rope_freq_base: 'float',
    rope_freq_scale: 'float',
    yarn_ext_factor: 'float',
    yarn_attn_factor: 'float',
    yarn_beta_fast: 'float',
    yarn_beta_slow: 'float',
    yarn_orig_ctx: 'uint32_t',
    defrag_thold: 'float',
    cb_eval: 'void *',
    cb_eval_user_data: 'void *',
    type_k: 'int',
    type_v: 'int',
    abort_callback: 'void *',
    abort_callback_data: 'void *',
    embeddings: 'bool',
    offload_kqv: 'bool',
    no_perf: 'bool',
    op_offload: 'bool',
    swa_full: 'bool',
    kv_unified: 'bool',
    samplers: 'void *',
    n_samplers: 'size_t',
    ctx_other: 'void *',
  })
  koffi.struct('llama_batch', {
    n_tokens: 'int32_t',
    token: 'void *',
    embd: 'void *',
    pos: 'void *',
    n_seq_id: 'void *',
    seq_id: 'void *',
    logits: 'void *',
  })
  koffi.struct('llama_model_quantize_params', {
    nthread: 'int32_t',
    ftype: 'int',
    output_tensor_type: 'int',
    token_embedding_type: 'int',
    allow_requantize: 'bool',
    quantize_output_tensor: 'bool',
    only_copy: 'bool',
    pure: 'bool',
    keep_split: 'bool',
    dry_run: 'bool',
    imatrix: 'void *',
    kv_overrides: 'void *',
    tt_overrides: 'void *',
    prune_layers: 'void *',
    max_buf_size: 'size_t',
  })
  koffi.struct('llama_model_imatrix_data', { name: 'void *', data: 'void *', size: 'size_t' })
  koffi.struct('llama_model_tensor_override', { pattern: 'void *', type: 'int' })
  const api = {
    koffi,
    loadBackends: ggml.func('void ggml_backend_load_all_from_path(const char *dir)'),
    backendInit: llama.func('void llama_backend_init()'),
    modelDefaults: llama.func('llama_model_params llama_model_default_params()'),
    contextDefaults: llama.func('llama_context_params llama_context_default_params()'),
    loadModel: llama.func('void *llama_model_load_from_file(const char *path, llama_model_params params)'),
    newContext: llama.func('void *llama_init_from_model(void *model, llama_context_params params)'),
    freeContext: llama.func('void llama_free(void *ctx)'),
    freeModel: llama.func('void llama_model_free(void *model)'),
    vocab: llama.func('void *llama_model_get_vocab(void *model)'),
    vocabSize: llama.func('int32_t llama_vocab_n_tokens(void *vocab)'),
    tokenize: llama.func(
      'int32_t llama_tokenize(void *vocab, const char *text, int32_t length, _Out_ int32_t *tokens, int32_t max, bool special, bool parse)',
    ),
    special: Object.fromEntries(
      ['bos', 'eos', 'eot', 'sep', 'mask', 'fim_pre', 'fim_suf', 'fim_mid', 'fim_pad', 'fim_rep', 'fim_sep'].map(
        (name) => [name, llama.func(`int32_t llama_vocab_${name}(void *vocab)`)],
      ),
    ),
    added: Object.fromEntries(
      ['bos', 'eos', 'sep'].map((name) => [name, llama.func(`bool llama_vocab_get_add_${name}(void *vocab)`)]),
    ),
    memory: llama.func('void *llama_get_memory(void *ctx)'),
    clearMemory: llama.func('void llama_memory_clear(void *memory, bool data)'),
    batchInit: llama.func('llama_batch llama_batch_init(int32_t tokens, int32_t embd, int32_t sequences)'),
    batchFree: llama.func('void llama_batch_free(llama_batch batch)'),
    decode: llama.func('int32_t llama_decode(void *ctx, llama_batch batch)'),
    logits: llama.func('void *llama_get_logits(void *ctx)'),
    encode: llama.func('int32_t llama_encode(void *ctx, llama_batch batch)'),
    embeddings: llama.func('void *llama_get_embeddings(void *ctx)'),
    sequenceEmbeddings: llama.func('void *llama_get_embeddings_seq(void *ctx, int32_t sequence)'),
    width: llama.func('int32_t llama_model_n_embd(void *model)'),
    classes: llama.func('uint32_t llama_model_n_cls_out(void *model)'),
    quantizeDefaults: llama.func('llama_model_quantize_params llama_model_quantize_default_params()'),
    quantize: llama.func(
      'uint32_t llama_model_quantize(const char *input, const char *output, const llama_model_quantize_params *params)',
    ),
  }
  check(api)
  api.loadBackends(folder)
  api.backendInit()
  return api
}

/** Of no tensor: what a type is until it is asked for. */
const NO_TYPE = 43

/**
 * Parameters of llama_model_quantize from options (see llama-quantize.mjs), and what they point to: the caller keeps it
 * until the call is over.
 */
export function quantizeParams(
  api,
  { pure, leaveOutput, output, embedding, overrides, imatrix, prune, keepSplit } = {},
) {
  const { koffi } = api
  const held = []
  const structs = (type, items) => {
    const size = koffi.sizeof(type)
    const memory = koffi.alloc(type, items.length)
    items.forEach((item, i) => koffi.encode(memory, i * size, type, item))
    held.push(memory, items)
    return memory
  }
  const text = (value) => {
    const bytes = Buffer.from(`${value}\0`)
    const memory = koffi.alloc('char', bytes.length)
    koffi.encode(memory, koffi.array('char', bytes.length), bytes)
    held.push(memory)
    return memory
  }
  const floats = (values) => {
    const memory = koffi.alloc('float', values.length)
    koffi.encode(memory, koffi.array('float', values.length), Float32Array.from(values))
    held.push(memory)
    return memory
  }
  // requantising is allowed so that a quantised file can be read back as F32
  const params = { ...api.quantizeDefaults(), allow_requantize: true }
  params.pure = pure === true
  params.keep_split = keepSplit === true
  if (prune !== undefined) {
    const list = Int32Array.from([...prune, -1])
    params.prune_layers = koffi.alloc('int32_t', list.length)
    koffi.encode(params.prune_layers, koffi.array('int32_t', list.length), list)
    held.push(params.prune_layers)
  }
  params.quantize_output_tensor = leaveOutput !== true
  params.output_tensor_type = output ?? NO_TYPE
  params.token_embedding_type = embedding ?? NO_TYPE
  if (overrides !== undefined) {
    const items = overrides.map(([pattern, type]) => ({ pattern: text(pattern), type }))
    params.tt_overrides = structs('llama_model_tensor_override', [...items, { pattern: null, type: NO_TYPE }])
  }
  if (imatrix !== undefined) {
    const entries = typeof imatrix === 'string' ? JSON.parse(readFileSync(imatrix, 'utf8')) : imatrix
    const items = Object.entries(entries).map(([name, values]) => {
      return { name: text(name), data: floats(values), size: values.length }
    })
    params.imatrix = structs('llama_model_imatrix_data', [...items, { name: null, data: null, size: 0 }])
  }
  return { params, held }
}

/** Fields whose defaults, all through each struct, only come out right if the layout is. */
function check(api) {
  const model = api.modelDefaults()
  const context = api.contextDefaults()
  const quantize = api.quantizeDefaults()
  const facts = {
    'model.lazy_mode': [0, 1, 2].includes(model.lazy_mode),
    'model.use_extra_bufts': model.use_extra_bufts === true,
    'model.vocab_only': model.vocab_only === false && model.no_alloc === false,
    'context.n_ctx': context.n_ctx === 512 && context.n_ubatch === 512 && context.n_seq_max === 1,
    'context.rope_scaling_type': context.rope_scaling_type === -1 && context.attention_type === -1,
    'context.yarn_attn_factor': context.yarn_attn_factor === -1 && context.defrag_thold === -1,
    'context.type_k': context.type_k === 1 && context.type_v === 1,
    'context.offload_kqv': context.offload_kqv === true && context.embeddings === false,
    'context.n_samplers': context.samplers === null && Number(context.n_samplers) === 0,
    'quantize.types': quantize.output_tensor_type === 43 && quantize.token_embedding_type === 43,
    'quantize.quantize_output_tensor': quantize.quantize_output_tensor === true && quantize.only_copy === false,
    'quantize.imatrix': quantize.imatrix === null && Number(quantize.max_buf_size) === 2 ** 33,
  }
  const wrong = Object.keys(facts).filter((name) => !facts[name])
  if (wrong.length > 0) {
    const seen = JSON.stringify({ model, context, quantize }, (_, v) => (typeof v === 'bigint' ? Number(v) : v))
    throw new Error(`the structs of llama.cpp are not those of ${VERSION}: ${wrong.join(', ')}: ${seen}`)
  }
}
