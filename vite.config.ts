import { readFile, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { svelte } from '@sveltejs/vite-plugin-svelte'
import { defineConfig, type Plugin } from 'vite'
import { VitePWA } from 'vite-plugin-pwa'

const ROOT = fileURLToPath(new URL('.', import.meta.url))

/** Without these two there is no SharedArrayBuffer, hence one thread only. */
const ISOLATION = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
}

/** The page may talk to its own origin and nobody else; WebAssembly may be compiled, text may not be evaluated. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self' 'wasm-unsafe-eval'",
  "worker-src 'self' blob:",
  "connect-src 'self' blob:",
  "style-src 'self'",
  "img-src 'self' data: blob:",
  "manifest-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
].join('; ')

/** Everything that is precached must fit: the sample's weights are the largest (12 MB). */
const LARGEST_PRECACHED_BYTES = 32 * 1024 * 1024

/** Writes the policy into the built page (in development Vite's own inline styles and socket would break it). */
function contentSecurityPolicy(): Plugin {
  return {
    name: 'modelconvert:policy',
    apply: 'build',
    transformIndexHtml: () => [
      { tag: 'meta', attrs: { 'http-equiv': 'Content-Security-Policy', content: POLICY }, injectTo: 'head-prepend' },
    ],
  }
}

/** Puts the sample model beside the built page; in development it is served from where it lies. */
function sample(): Plugin {
  return {
    name: 'modelconvert:sample',
    apply: 'build',
    async generateBundle() {
      const folder = join(ROOT, 'sample')
      for (const name of (await readdir(folder)).sort()) {
        this.emitFile({ type: 'asset', fileName: `sample/${name}`, source: await readFile(join(folder, name)) })
      }
    },
  }
}

export default defineConfig({
  root: ROOT,
  base: './',
  publicDir: 'public',
  build: {
    outDir: 'dist/app',
    emptyOutDir: true,
    target: 'es2022',
    modulePreload: { polyfill: false },
    // Inlined as data: URLs, small workers and modules would fall foul of the policy.
    assetsInlineLimit: 0,
  },
  worker: { format: 'es' },
  // Found only once a worker runs, it would reload the page under development.
  optimizeDeps: { include: ['hash-wasm', '@wllama/wllama/esm/index.js'] },
  server: { headers: ISOLATION },
  preview: { headers: ISOLATION },
  plugins: [
    svelte(),
    contentSecurityPolicy(),
    sample(),
    VitePWA({
      strategies: 'injectManifest',
      srcDir: 'src/sw',
      filename: 'sw.ts',
      injectRegister: false,
      registerType: 'prompt',
      injectManifest: {
        globPatterns: ['**/*.{html,js,css,wasm,svg,png,webmanifest}', 'sample/*'],
        maximumFileSizeToCacheInBytes: LARGEST_PRECACHED_BYTES,
      },
      manifest: {
        id: './',
        name: 'modelconvert',
        short_name: 'modelconvert',
        description: 'Convert machine-learning models from one format to another in your browser. Nothing is uploaded.',
        start_url: './',
        scope: './',
        display: 'standalone',
        background_color: '#f6f5f1',
        theme_color: '#0b6a5b',
        categories: ['developer', 'utilities'],
        icons: [
          { src: 'icon.svg', sizes: 'any', type: 'image/svg+xml' },
          { src: 'icon-192.png', sizes: '192x192', type: 'image/png' },
          { src: 'icon-512.png', sizes: '512x512', type: 'image/png' },
          { src: 'icon-maskable-512.png', sizes: '512x512', type: 'image/png', purpose: 'maskable' },
        ],
      },
    }),
  ],
})
