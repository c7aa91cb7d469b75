import { existsSync, statSync } from 'node:fs'
import { basename, dirname, extname, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import type { Place } from '../src/core/bytes.ts'
import { AppError } from '../src/core/errors.ts'
import type { OptionSpec, OptionValue } from '../src/core/option.ts'

/** A flag of the command itself; those of the formats come from their {@link OptionSpec}s. */
export interface FlagSpec {
  readonly name: string
  readonly short?: string
  /** What the value is called in the help; absent for a flag without one. */
  readonly value?: string
  /** Whether it can be given several times. */
  readonly many?: true
  readonly help: string
}

export type Flags = ReadonlyMap<string, string | true | readonly string[]>

export interface Arguments {
  readonly positionals: readonly string[]
  /** Given flags of the command, by name. */
  readonly flags: Flags
  /** Given options of the formats. */
  readonly options: Readonly<Record<string, OptionValue>>
}

/** Parses what follows the command's name. Throws `bad-option`, naming the flag. */
export function parseArguments(
  args: readonly string[],
  flags: readonly FlagSpec[],
  specs: readonly OptionSpec[],
): Arguments {
  const config: Record<string, { type: 'string' | 'boolean'; short?: string; multiple?: boolean }> = {}
  for (const { name, short, value, many } of flags) {
    config[name] = {
      type: value === undefined ? 'boolean' : 'string',
      ...(short === undefined ? {} : { short }),
      ...(many === true ? { multiple: true } : {}),
    }
  }
  for (const { name, kind } of specs) {
    config[name] = {
      type: kind.kind === 'flag' ? 'boolean' : 'string',
      ...(kind.kind === 'list' ? { multiple: true } : {}),
    }
  }
  let parsed
  try {
    parsed = parseArgs({ args: [...args], options: config, allowPositionals: true, strict: true })
  } catch (cause) {
    const message = cause instanceof Error ? (cause.message.split('. ')[0] ?? cause.message) : String(cause)
    throw new AppError('bad-option', message, { cause })
  }
  const own = new Set(flags.map((flag) => flag.name))
  const given = new Map<string, string | true | readonly string[]>()
  const options: Record<string, OptionValue> = {}
  for (const [name, value] of Object.entries(parsed.values)) {
    if (value === undefined || value === false) continue
    const plain = Array.isArray(value) ? value.map(String) : value
    if (own.has(name)) given.set(name, plain)
    else options[name] = plain
  }
  return { positionals: parsed.positionals, flags: given, options }
}

/** INPUT as a place: a path, or `sample`. */
export function inputPlace(input: string): Place {
  if (input === 'sample') return { kind: 'sample' }
  return { kind: 'path', path: resolve(input) }
}

/**
 * Where `-o` points: an existing folder or a path without a file's ending is the folder for the output, anything else
 * names the file.
 */
export function outputPlace(path: string | undefined): { readonly folder: string; readonly name: string | null } {
  if (path === undefined) return { folder: process.cwd(), name: null }
  if (path === '') throw new AppError('bad-option', '--output is empty', { hint: 'Give a file or a folder.' })
  const full = resolve(path)
  const isFolder = /[/\\]$/.test(path) || (existsSync(full) ? statSync(full).isDirectory() : extname(full) === '')
  return isFolder ? { folder: full, name: null } : { folder: dirname(full), name: basename(full) }
}

/** `4`, `512M`, `1.5GiB` as a number; binary units. */
export function parseSize(text: string, flag: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?$/i.exec(text.trim())
  const power = match === null ? -1 : ['', 'K', 'M', 'G', 'T'].indexOf((match[2] ?? '').toUpperCase())
  if (match === null || power < 0) {
    throw new AppError('bad-option', `--${flag} cannot be ${JSON.stringify(text)}`, {
      hint: 'Give a size such as 512M.',
    })
  }
  return Math.floor(Number(match[1]) * 1024 ** power)
}

/** A whole number within bounds. */
export function parseCount(text: string, flag: string, min: number, max: number): number {
  const count = Number(text)
  if (Number.isSafeInteger(count) && count >= min && count <= max) return count
  throw new AppError('bad-option', `--${flag} cannot be ${JSON.stringify(text)}`, {
    hint: `It takes a whole number from ${min} to ${max}.`,
  })
}
