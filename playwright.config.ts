import { defineConfig } from '@playwright/test'

/** Drives the built page (dist/app) as people do. Run `npm run build` first; `npm test` does. */
export default defineConfig({
  testDir: 'tests/browser/e2e',
  outputDir: 'test-results',
  // Conversions share the machine's cores: side by side they would only measure each other.
  workers: 1,
  timeout: 60_000,
  expect: { timeout: 20_000 },
  forbidOnly: true,
  // A browser on a shared machine stalls now and then; what passes only the second time is told as flaky.
  retries: process.env['CI'] === undefined ? 0 : 1,
  reporter: [['list']],
})
