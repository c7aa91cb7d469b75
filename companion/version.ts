import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { packageFolder } from './host.ts'

/** This package's version. */
export const version: string = (
  JSON.parse(readFileSync(join(packageFolder(), 'package.json'), 'utf8')) as { version: string }
).version
