import { configDefaults, defineConfig } from 'vitest/config'

/** The tests that run in Node. Those of the browser and the long ones have configurations of their own. */
export default defineConfig({
  test: {
    include: ['tests/**/*.test.ts'],
    exclude: [...configDefaults.exclude, 'tests/browser/**', 'tests/long/**'],
    globalSetup: ['tests/setup/build.ts'],
    // conversions and judges take a core each
    maxWorkers: 2,
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
})
