import { describe, test } from 'vitest'
import { bytesCases, type BytesHarness } from './bytes-cases.ts'

/** Runs the contract of {@link bytesCases} for one host; `makeHarness` is called anew for each case. */
export function bytesContract(
  name: string,
  makeHarness: () => Promise<BytesHarness & { readonly cleanup?: () => Promise<void> }>,
): void {
  describe(`${name}: bytes contract`, () => {
    for (const one of bytesCases) {
      test(one.name, async (context) => {
        const harness = await makeHarness()
        try {
          const reason = one.skip?.(harness) ?? null
          if (reason !== null) return context.skip(reason)
          await one.run(harness)
        } finally {
          await harness.cleanup?.()
        }
      })
    }
  })
}
