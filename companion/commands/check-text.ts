import type { CheckReport, Comparison, ComparedModel, RunReport } from '../../src/core/check.ts'
import { formatWhole, groupDigits } from '../../src/core/digits.ts'
import type { Finding } from '../../src/core/plan.ts'
import { findingsText } from '../findings.ts'
import { formatBytes, PAGE_WIDTH, table, wrap } from '../text.ts'

/** What a check prints. */
export function checkText(report: CheckReport, verbose: boolean): string {
  const { name, files, formatTitle, because, findings, run, notRun, judges, passed } = report
  const bytes = files.reduce((sum, { size }) => sum + size, 0)
  const lines = [
    `${name}  ${formatTitle}: ${because}${files.length === 0 ? '' : `, ${formatBytes(bytes)}`}`,
    ...indented(findingsText(findings.filter(isNews), verbose)),
    ...(run === null ? wrap(groupDigits(`not run: ${notRun ?? ''}`), PAGE_WIDTH) : runLines(run)),
    `${verdict(findings, passed)}, judged by ${judges.length === 0 ? 'nobody' : judges.join(' and ')}${
      run === null && judges.length > 0 ? ' alone' : ''
    }`,
  ]
  return `${lines.join('\n')}\n`
}

/** What running a finished model showed, as lines. */
export function runLines(run: RunReport): readonly string[] {
  const { by, threads, generated, embedding, perplexity } = run
  return [
    `run by ${by} on ${threads} thread${threads === 1 ? '' : 's'}`,
    ...(generated === null ? [] : [`  ${JSON.stringify(run.prompt)} -> ${JSON.stringify(generated.text)}`]),
    ...(embedding === null
      ? []
      : [
          `  ${JSON.stringify(run.prompt)} -> a vector of ${embedding.width}, of the length ${embedding.norm.toPrecision(4)}`,
        ]),
    ...(perplexity === null
      ? []
      : [
          `  perplexity ${formatPerplexity(perplexity.value)} over ${formatWhole(perplexity.tokens)} tokens of ${
            perplexity.builtIn ? 'a short text that comes along' : 'the text'
          }`,
        ]),
    `  ${costs(run).join(', ')}`,
  ]
}

function costs({ loadMs, generated, memoryBytes }: RunReport): readonly string[] {
  const rate = (value: number): string => (value < 10 ? value.toFixed(1) : value.toFixed(0))
  const { promptTokensPerSecond: prompt = null, tokensPerSecond: next = null } = generated ?? {}
  return [
    `loaded in ${(loadMs / 1000).toFixed(2)} s`,
    ...(prompt === null ? [] : [`prompt at ${rate(prompt)} tokens/s`]),
    ...(next === null ? [] : [`then ${rate(next)} tokens/s`]),
    ...(memoryBytes === null ? [] : [`at most ${formatBytes(memoryBytes)} of memory`]),
  ]
}

/** What a comparison prints. */
export function comparisonText({ a, b, ...report }: Comparison): string {
  const { meanKl, largestKl, topAgreement, tokens, builtIn, by, threads } = report
  const row = (letter: string, { name, files, perplexity }: ComparedModel): readonly string[] => [
    letter,
    name,
    formatBytes(files.reduce((sum, { size }) => sum + size, 0)),
    formatPerplexity(perplexity),
  ]
  const change = (b.perplexity / a.perplexity - 1) * 100
  const lines = [
    table([row('A', a), row('B', b)], ['', 'MODEL', 'SIZE', 'PERPLEXITY']),
    '',
    `B against A over ${formatWhole(tokens)} tokens of ${builtIn ? 'a short text that comes along' : 'the text'}:`,
    `  perplexity ${change < 0 ? '' : '+'}${change.toFixed(2)} %`,
    `  KL divergence ${meanKl.toExponential(2)} on average, ${largestKl.toExponential(2)} at the most (nats a token)`,
    `  the same likeliest token ${(topAgreement * 100).toFixed(2)} % of the time`,
    `run by ${by} on ${threads} thread${threads === 1 ? '' : 's'}`,
  ]
  return `${lines.join('\n')}\n`
}

function formatPerplexity(value: number): string {
  if (!Number.isFinite(value)) return 'is no number'
  return value < 1e5 ? value.toFixed(4) : value.toExponential(3)
}

/** That it runs is told by what it said. */
function isNews({ code }: Finding): boolean {
  return code !== 'runs'
}

function verdict(findings: readonly Finding[], passed: boolean): string {
  if (passed) return 'nothing is wrong'
  const errors = findings.filter(({ severity }) => severity === 'error').length
  return errors === 1 ? 'one thing is wrong' : `${errors} things are wrong`
}

function indented(text: string): readonly string[] {
  return text === '' ? [] : text.trimEnd().split('\n')
}
