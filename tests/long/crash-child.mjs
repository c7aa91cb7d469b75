// The command in a process that kills itself in the middle of its writing, as CRASH (JSON, see command.ts) says. Without
// a crash it prints on stderr how many events of each kind there were.
import { closeSync, fstatSync, ftruncateSync, openSync, writeSync } from 'node:fs'
import fs from 'node:fs/promises'
import { syncBuiltinESMExports } from 'node:module'
import path from 'node:path'
import { xorshift } from './synthetic.mjs'

const crash = JSON.parse(process.env.CRASH ?? 'null')
const events = { write: 0, flush: 0, close: 0, replace: 0, publish: 0, rename: 0, remove: 0 }

/** By unfinished file: ranges written that no flush has vouched for yet. */
const unflushed = new Map()

/** Takes back what a loss of power might: each unflushed range is there, or zeros, or noise, or the file ends before. */
function loseUnflushed() {
  const random = xorshift(crash.seed)
  for (const [part, ranges] of unflushed) {
    if (ranges.size === 0) continue
    const file = openSync(part, 'r+')
    for (const { position, length } of ranges) {
      const fate = Math.floor(random() * 3)
      if (fate > 0) writeSync(file, Buffer.alloc(length, fate === 1 ? 0 : 0xa5), 0, length, position)
    }
    const start = Math.min(...[...ranges].map(({ position }) => position))
    if (random() < 0.5) ftruncateSync(file, Math.floor(start + random() * Math.max(0, fstatSync(file).size - start)))
    closeSync(file)
  }
}

function die() {
  if (crash.lose) loseUnflushed()
  process.kill(process.pid, 'SIGKILL')
  // nothing more may happen until the signal is there
  for (;;);
}

/** Runs one event, or dies before it, after it, or half-way. */
async function event(kind, act, half) {
  const hit = ++events[kind] === crash?.count && kind === crash.kind
  if (hit && crash.when === 'before') die()
  if (hit && crash.when === 'torn' && half !== undefined) {
    await half()
    die()
  }
  const result = await act()
  if (hit) die()
  return result
}

// Renaming is what gives files their names; it happens deep inside, so it is taken hold of where it comes from. The
// bundle is imported afterwards.
const { rename } = fs
fs.rename = (from, to) => event('rename', () => rename(from, to))
syncBuiltinESMExports()
const { createNodeHost, main } = await import('../../dist/node/index.js')

function wrapSink(sink, part) {
  const ranges = new Set()
  unflushed.set(part, ranges)
  const flushing = async (act) => {
    const before = [...ranges]
    await act()
    for (const range of before) ranges.delete(range)
  }
  return {
    name: sink.name,
    kept: sink.kept,
    write: (bytes, position, signal) => {
      ranges.add({ position, length: bytes.length })
      const half = bytes.subarray(0, bytes.length >>> 1)
      return event(
        'write',
        () => sink.write(bytes, position, signal),
        () => sink.write(half, position, signal),
      )
    },
    flush: () => event('flush', () => flushing(() => sink.flush())),
    close: () => event('close', () => flushing(() => sink.close())),
    abort: () => sink.abort(),
  }
}

function wrapOutput(output, root) {
  return {
    name: output.name,
    resumable: output.resumable,
    list: () => output.list(),
    open: (file) => output.open(file),
    freeBytes: () => output.freeBytes(),
    exists: (file) => output.exists(file),
    create: async (file, options) => wrapSink(await output.create(file, options), path.join(root, `${file}.part`)),
    publish: (paths, overwrite) => event('publish', () => output.publish(paths, overwrite)),
    remove: (file) => event('remove', () => output.remove(file)),
    replace: (file, bytes) => event('replace', () => output.replace(file, bytes)),
  }
}

process.exitCode = await main(process.argv.slice(2), {
  stdout: (text) => void process.stdout.write(text),
  stderr: process.stderr,
  createHost(options) {
    const host = createNodeHost(options)
    return { ...host, openOutput: async (place) => wrapOutput(await host.openOutput(place), place.path) }
  },
})
if (crash === null) process.stderr.write(`\n${JSON.stringify({ events })}\n`)
