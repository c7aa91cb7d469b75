import type { Perplexity } from '../core/check.ts'
import { AppError } from '../core/errors.ts'
import type { Control } from './control.ts'
import { SHORT_TEXT } from './check-text.ts'
import type { RunningModel, TextMeasures } from './runner.ts'

/**
 * Tokens of a window: what published perplexities use. Windows do not overlap, and each begins anew, so figures of
 * models with longer contexts compare with those of others.
 */
export const WINDOW = 512

/** Tokens that a model must be able to see for a window, what must come before it included. */
export const CONTEXT = WINDOW + 1

/** Fewer would be measured by their beginning alone. */
const LEAST_TOKENS = 2

/** A text cut into windows of token ids. */
export interface Windows {
  readonly windows: readonly (readonly number[])[]
  readonly builtIn: boolean
}

/**
 * Tokenises a text paragraph by paragraph, joins the tokens and cuts them into windows; what is left over is dropped
 * unless it is all there is. Throws `bad-option` for a text of no tokens.
 */
export async function windowsOf(
  model: Pick<RunningModel, 'context'>,
  measures: TextMeasures,
  text: string | undefined,
  most: number | undefined,
): Promise<Windows> {
  const ids: number[] = []
  for (const paragraph of (text ?? SHORT_TEXT).replaceAll('\r\n', '\n').split('\n\n')) {
    if (paragraph.trim() !== '') ids.push(...(await measures.tokenize(paragraph)))
  }
  if (ids.length < LEAST_TOKENS) {
    throw new AppError('bad-option', `The text has ${ids.length} tokens: too few to foretell any`, {
      hint: 'Give a text of some hundred words at the least.',
    })
  }
  const size = Math.min(WINDOW, model.context - (measures.first === null ? 0 : 1), ids.length)
  const count = Math.min(Math.floor(ids.length / size), most ?? Number.POSITIVE_INFINITY)
  const windows = Array.from({ length: count }, (_, index) => ids.slice(index * size, (index + 1) * size))
  return { windows, builtIn: text === undefined }
}

/** How well a decoder foretells a text. A loss that is no number makes all of it NaN. */
export async function perplexityOf(
  measures: TextMeasures,
  { windows, builtIn }: Windows,
  control: Control,
): Promise<Perplexity> {
  const { first } = measures
  let sum = 0
  let tokens = 0
  for (const [index, window] of windows.entries()) {
    await control.pass()
    control.report({ phase: 'run', item: `measuring, window ${index + 1} of ${windows.length}` })
    const losses = await measures.losses(first === null ? window : [first, ...window])
    // what comes first in a window is not foretold from anything
    for (const loss of first === null ? losses : losses.subarray(1)) sum += loss
    tokens += window.length - 1
  }
  const meanLoss = sum / tokens
  return { value: Math.exp(meanLoss), meanLoss, tokens, builtIn }
}
