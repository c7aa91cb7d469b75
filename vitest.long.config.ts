import { defineConfig } from 'vitest/config'

const MINUTE = 60_000

/** Tests that take gigabytes of disk and minutes: `npm run test:long`. */
export default defineConfig({
  test: {
    include: ['tests/long/**/*.test.ts'],
    globalSetup: ['tests/setup/build.ts'],
    // they measure time and memory: one after the other
    fileParallelism: false,
    testTimeout: 30 * MINUTE,
    hookTimeout: 10 * MINUTE,
    reporters: ['verbose'],
    disableConsoleIntercept: true,
  },
})
