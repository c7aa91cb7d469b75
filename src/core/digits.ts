/**
 * Shapes, which stay as they are, or a whole number of four digits and more that is no part of a name, a path, a
 * fraction or a code.
 */
const LONG_NUMBER = /\[[\d, x]+\]|(?<![\w.,/\\#=:"'-])[1-9]\d{3,15}(?![\w/\\"'=-]|[.,:]\d|\.[a-z])/gi

/** `1,048,576` for 1048576. */
export function formatWhole(value: number): string {
  return String(value).replace(/\B(?=(?:\d{3})+$)/g, ',')
}

/** `2,048 tokens` for `2048 tokens`; digits of shapes, names, paths and fractions stay as they are. */
export function groupDigits(text: string): string {
  return text.replace(LONG_NUMBER, (found) => (found.startsWith('[') ? found : formatWhole(Number(found))))
}
