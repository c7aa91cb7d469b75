/** The files beside a model's weights that say what it is for people and tokenizers. */
const EXTRAS: readonly RegExp[] = [
  /^generation_config\.json$/,
  /^(?:README|LICENSE|LICENCE|NOTICE|USE_POLICY)[\w.-]*$/i,
  /^(?:tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|(?:video_)?preprocessor_config|processor_config|normalizer)\.json$/,
  /^(?:tokenizer\.model|spiece\.model|sentencepiece\.bpe\.model|(?:source|target)\.spm|merges\.txt|vocab\.txt)$/,
  /^chat_template\.(?:jinja|json)$/,
  // sentence-transformers
  /^(?:modules|sentence_[\w]+_config|config_sentence_transformers|\d+_[A-Z]\w*\/config)\.json$/,
  /^additional_chat_templates\/[\w.-]+\.jinja$/,
]

/** Whether a converted model may carry this file over as it is. Paths are within the model's own folder. */
export function isExtra(path: string): boolean {
  return EXTRAS.some((pattern) => pattern.test(path))
}
