/** MLX's tensors under HuggingFace's names, for families whose tensors mlx-lm's `sanitize` takes apart. */
import type { Values } from './matrix-models.ts'

type Tensors = ReadonlyMap<string, Values>
type Config = Readonly<Record<string, unknown>>

/** Tensors of the shape [..., rows, columns] put in turns or one behind the other along their rows. */
function joinRows(a: Values, b: Values, order: 'turns' | 'halves', columns: number): Values {
  const stack = a.shape[0]!
  const rows = a.values.length / stack / columns
  const values = new Float32Array(2 * a.values.length)
  for (let e = 0; e < stack; e++)
    for (let row = 0; row < rows; row++)
      for (const [half, { values: from }] of [a, b].entries()) {
        const to = order === 'turns' ? 2 * row + half : half * rows + row
        const start = (e * rows + row) * columns
        values.set(from.subarray(start, start + columns), (e * 2 * rows + to) * columns)
      }
  return { shape: a.shape.with(1, 2 * rows), values }
}

/** Each matrix of a stack turned. */
function turned({ shape, values }: Values): Values {
  const [stack = 0, rows = 0, columns = 0] = shape
  const result = Float32Array.from(values, (_, at) => {
    const e = Math.floor(at / (rows * columns))
    const inside = at % (rows * columns)
    return values[e * rows * columns + (inside % rows) * columns + Math.floor(inside / rows)]!
  })
  return { shape: [stack, columns, rows], values: result }
}

function gptOss(tensors: Tensors): Tensors {
  const found = new Map<string, Values>()
  for (const [name, values] of tensors) {
    const [, at, part, kind] = /^(.*\.experts)\.(gate|up|down)_proj\.(weight|bias)$/.exec(name) ?? []
    const of = (joined: Values): Values => (kind === 'weight' ? turned(joined) : joined)
    const suffix = kind === 'bias' ? '_bias' : ''
    if (at === undefined) found.set(name, values)
    else if (part === 'down') found.set(`${at}.down_proj${suffix}`, of(values))
    else if (part === 'gate') {
      const up = tensors.get(name.replace('gate_proj', 'up_proj'))!
      const columns = kind === 'bias' ? 1 : values.shape[2]!
      found.set(`${at}.gate_up_proj${suffix}`, of(joinRows(values, up, 'turns', columns)))
    }
  }
  return found
}

function graniteMoe(tensors: Tensors): Tensors {
  const found = new Map<string, Values>()
  for (const [name, values] of tensors) {
    const [, at, part] = /^(.*)\.switch_mlp\.(gate|up|down)_proj\.weight$/.exec(name) ?? []
    if (at === undefined) found.set(name, values)
    else if (part === 'down') found.set(`${at}.output_linear.weight`, values)
    else if (part === 'gate') {
      const up = tensors.get(name.replace('gate_proj', 'up_proj'))!
      found.set(`${at}.input_linear.weight`, joinRows(values, up, 'halves', values.shape[2]!))
    }
  }
  return found
}

function deepseekV3(tensors: Tensors): Tensors {
  const found = new Map<string, Values>()
  for (const [name, values] of tensors) {
    const [, at, part] = /^(.*\.self_attn)\.(embed_q|unembed_out)\.weight$/.exec(name) ?? []
    if (at === undefined) found.set(name, values)
    else if (part === 'embed_q') {
      const keys = turned(values)
      const { shape, values: own } = tensors.get(`${at}.unembed_out.weight`)!
      const [heads = 0, plain = 0, rank = 0] = keys.shape
      const rows = plain + shape[1]!
      const joined = new Float32Array(heads * rows * rank)
      for (let head = 0; head < heads; head++) {
        joined.set(keys.values.subarray(head * plain * rank, (head + 1) * plain * rank), head * rows * rank)
        const width = shape[1]! * rank
        joined.set(own.subarray(head * width, (head + 1) * width), (head * rows + plain) * rank)
      }
      found.set(`${at}.kv_b_proj.weight`, { shape: [heads * rows, rank], values: joined })
    }
  }
  return found
}

function gptNeox(tensors: Tensors): Tensors {
  return new Map(
    [...tensors].map(([name, values]) => [
      name
        .replace('model.h.', 'gpt_neox.layers.')
        .replace('model.embed_out', 'embed_out')
        .replace('model.', 'gpt_neox.'),
      values,
    ]),
  )
}

const FAMILIES: Readonly<Record<string, (tensors: Tensors, config: Config) => Tensors>> = {
  gpt_oss: gptOss,
  granitemoe: graniteMoe,
  deepseek_v3: deepseekV3,
  gpt_neox: gptNeox,
}

/** What HuggingFace has, from what the class of this `model_type` in mlx-lm has. */
export function rejoined(tensors: Tensors, config: Config): Tensors {
  return FAMILIES[String(config['model_type'])]?.(tensors, config) ?? tensors
}
