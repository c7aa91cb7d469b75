import { playwright } from '@vitest/browser-playwright'
import { defineConfig } from 'vitest/config'
import { findChromium } from './tests/setup/chromium.ts'

const executablePath = findChromium()
if (executablePath === null) process.exit(1)

/** Isolates the page, so that it has SharedArrayBuffer. */
const ISOLATION = { 'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp' }

// Unit tests that need a browser's own storage, files and workers.
export default defineConfig({
  plugins: [
    {
      name: 'isolation',
      configureServer(server) {
        server.middlewares.use((_request, response, next) => {
          for (const [header, value] of Object.entries(ISOLATION)) response.setHeader(header, value)
          next()
        })
      },
    },
  ],
  server: { headers: ISOLATION },
  worker: { format: 'es' },
  publicDir: false,
  // Known beforehand: a dependency found in mid-run reloads the page and its tests with it.
  optimizeDeps: { entries: ['tests/browser/unit/**/*.ts'], include: ['hash-wasm', '@wllama/wllama/esm/index.js'] },
  test: {
    include: ['tests/browser/unit/**/*.browser.test.ts'],
    testTimeout: 60_000,
    // All files share one origin, its storage and its quota.
    fileParallelism: false,
    browser: {
      enabled: true,
      headless: true,
      screenshotFailures: false,
      provider: playwright({ launchOptions: { executablePath } }),
      instances: [{ browser: 'chromium' }],
    },
  },
})
