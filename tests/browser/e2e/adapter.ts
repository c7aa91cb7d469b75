import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'

const SAMPLE = path.resolve(import.meta.dirname, '../../../sample')
const RANK = 4

/** Writes a LoRA adapter of the sample as PEFT has it: small random changes to all of its query matrices. */
export function writeAdapter(folder: string): void {
  mkdirSync(folder, { recursive: true })
  const config = JSON.parse(readFileSync(path.join(SAMPLE, 'config.json'), 'utf8')) as Record<string, number>
  const width = config['hidden_size']!
  const queries = config['num_attention_heads']! * (config['head_dim'] ?? width / config['num_attention_heads']!)
  const said = {
    peft_type: 'LORA',
    base_model_name_or_path: 'modelconvert/sample',
    r: RANK,
    lora_alpha: 8,
    target_modules: ['q_proj'],
  }
  writeFileSync(path.join(folder, 'adapter_config.json'), JSON.stringify(said))
  const header: Record<string, unknown> = {}
  const values: Float32Array[] = []
  let at = 0
  let state = 1
  const random = (): number => (state = (state * 48271) % 2147483647) / 2147483647 - 0.5
  for (let layer = 0; layer < config['num_hidden_layers']!; layer++) {
    for (const [part, shape] of [
      ['lora_A', [RANK, width]],
      ['lora_B', [queries, RANK]],
    ] as const) {
      const data = Float32Array.from({ length: shape[0] * shape[1] }, () => random() / 10)
      const name = `base_model.model.model.layers.${layer}.self_attn.q_proj.${part}.weight`
      header[name] = { dtype: 'F32', shape, data_offsets: [at, at + data.byteLength] }
      at += data.byteLength
      values.push(data)
    }
  }
  const text = Buffer.from(JSON.stringify(header))
  const head = Buffer.alloc(8 + Math.ceil(text.length / 8) * 8, ' ')
  head.writeBigUInt64LE(BigInt(head.length - 8))
  text.copy(head, 8)
  const bodies = values.map(({ buffer }) => Buffer.from(buffer))
  writeFileSync(path.join(folder, 'adapter_model.safetensors'), Buffer.concat([head, ...bodies]))
}
