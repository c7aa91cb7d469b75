import type { Matrix } from '../../api/wire.ts'
import { listWords, splitTitle } from './formats.ts'

/** One crossing of a table: whether something can be had there, and how much of it. */
export interface Crossing {
  /** The name of the format: "GGUF". */
  readonly to: string
  readonly open: 'all' | 'some' | 'none'
  /** "15 of 16"; empty for all or nothing. */
  readonly count: string
  /** What it leaves out, or why there is nothing; empty where it has all. */
  readonly why: string
}

export interface MatrixRow {
  readonly title: string
  readonly help: string
  readonly crossings: readonly Crossing[]
}

/** Every input against every output. */
export function inputRows({ inputs, outputs, architectures, cells }: Matrix): readonly MatrixRow[] {
  return inputs.map(({ id, title, help, otherwise }) => ({
    title,
    help: otherwise === null ? help : `${help} ${otherwise}`,
    crossings: outputs.map((output): Crossing => {
      const to = splitTitle(output.title).name
      const cell = cells.find((one) => one.input === id && one.output === output.id)
      const held = cell?.architectures ?? []
      if (held.length === 0) return { to, open: 'none', count: '', why: cell?.reason ?? '' }
      const missing = architectures.filter((one) => !held.includes(one.id)).map(nameOf)
      if (missing.length === 0) return { to, open: 'all', count: '', why: '' }
      const count = `${held.length} of ${architectures.length}`
      return { to, open: 'some', count, why: `not ${listWords(missing, 'or')}` }
    }),
  }))
}

/** Every architecture against every output. */
export function architectureRows({ architectures, outputs }: Matrix): readonly MatrixRow[] {
  return architectures.map((one) => ({
    title: nameOf(one),
    help: '',
    crossings: outputs.map(({ id, title }): Crossing => {
      const refusal = one.refused.find(({ format }) => format === id)
      const to = splitTitle(title).name
      return { to, open: refusal === undefined ? 'all' : 'none', count: '', why: refusal?.reason ?? '' }
    }),
  }))
}

/** Why architectures are left out, once for each format and reason. */
export function refusals({ architectures, outputs }: Matrix): readonly { readonly to: string; readonly why: string }[] {
  return outputs.flatMap(({ id, title }) => {
    const reasons = architectures.flatMap(({ refused }) => refused.filter(({ format }) => format === id))
    return [...new Set(reasons.map(({ reason }) => reason))].map((why) => ({ to: splitTitle(title).name, why }))
  })
}

/** "Llama" of LlamaForCausalLM. */
function nameOf({ id, classNames: [className = id] }: Matrix['architectures'][number]): string {
  return className.replace(/(?:For[A-Z]\w*|LMHeadModel|Model)$/, '') || className
}
