import { defineConfig } from 'vite'

/**
 * What runs in Node, bundled to dist/node: the command and the library by default, the kernel worker and the process of
 * llama.cpp with `--mode worker`. Those are bundles of their own, so that no code of the main thread imports an entry.
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
          ? { 'kernel-worker': 'companion/kernel-worker.ts', 'llama-process': 'companion/llama/process.ts' }
          : { cli: 'companion/cli.ts', index: 'companion/index.ts' },
      output: { entryFileNames: '[name].js', chunkFileNames: 'chunks/[name]-[hash].js' },
    },
  },
  // a package with a native part, and an optional one
  ssr: { noExternal: true, external: ['node-llama-cpp'] },
}))
