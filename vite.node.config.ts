import { defineConfig } from 'vite'

/** The command, the library and the kernel worker for Node, bundled to dist/node. */
export default defineConfig({
  publicDir: false,
  build: {
    ssr: true,
    outDir: 'dist/node',
    target: 'node20',
    minify: false,
    sourcemap: true,
    rolldownOptions: {
      input: { cli: 'companion/cli.ts', index: 'companion/index.ts', 'kernel-worker': 'companion/kernel-worker.ts' },
      output: { entryFileNames: '[name].js', chunkFileNames: 'chunks/[name]-[hash].js' },
    },
  },
  ssr: { noExternal: true },
})
