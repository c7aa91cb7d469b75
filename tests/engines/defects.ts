/** Files with one defect each, and the finding of validation that must name it. */
import { describe, expect, test } from 'vitest'
import type { Finding } from '../../src/core/plan.ts'
import type { Engine } from '../../src/engines/engine.ts'
import { memoryFolder } from '../contracts/memory.ts'
import type { Files } from './hf/folder.ts'

export interface Expected {
  readonly code: string
  readonly tensor?: string
  readonly file: string
  /** An error by default. */
  readonly severity?: Finding['severity']
  /** A part of the message. */
  readonly says?: string
}

export type Defects = readonly (readonly [name: string, plant: () => Files | Promise<Files>, expected: Expected])[]

/** What an engine's validation finds, all files closed behind it. */
export async function validationOf(engine: Engine, files: Files): Promise<Finding[]> {
  const folder = memoryFolder(files)
  const match = (await engine.detect(folder))!
  const findings: Finding[] = []
  for await (const finding of engine.validate(folder, match)) findings.push(finding)
  expect(folder.stats.openSources).toBe(0)
  return findings
}

/** Plants each defect and looks for the finding that must name it. */
export function testDefects(title: string, engine: Engine, defects: Defects): void {
  describe(`names every defect that is planted in ${title}`, () => {
    test.each(defects)('%s', async (_name, plant, { code, tensor, file, severity = 'error', says = '' }) => {
      const findings = await validationOf(engine, await plant())
      const found = findings.find(
        ({ where, message, ...finding }) =>
          finding.code === code &&
          finding.severity === severity &&
          where?.tensor === tensor &&
          where?.file === file &&
          message.includes(says),
      )
      expect(found, JSON.stringify(findings, null, 1).slice(0, 2000)).toBeDefined()
    })
  })
}
