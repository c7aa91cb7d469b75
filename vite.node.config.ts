import { defineConfig } from 'vite'

/**
 * What runs in Node, bundled to dist/node: the command and the library by default, the kernel worker with
 * `--mode worker`. The worker is a bundle of its own, so that no code of the main thread imports its entry.
 */
export default defineConfig(({ mode }) => ({
  publicDir: false,
  logLevel: 'warn',
  build: {
    ssr: true,
    outDir: 'dist/node',
    emptyOutDir: mode !== 'worker',
    target: 'node20',
    minify: false,
    sourcemap: true,
    rolldownOptions: {
      input:
        mode === 'worker'
          ? { 'kernel-worker': 'companion/kernel-worker.ts' }
          : { cli: 'companion/cli.ts', index: 'companion/index.ts' },
      output: { entryFileNames: '[name].js', chunkFileNames: 'chunks/[name]-[hash].js' },
    },
  },
  ssr: { noExternal: true },
}))
