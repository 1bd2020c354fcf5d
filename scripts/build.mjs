// Bundles src/ into dist/ (own code only; packages stay external). Called by scripts/run.mjs, bin/fairlead and the tests.
import { cp, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');

/** Leaves zod's own English only: Fairlead words its messages itself. */
const withoutLanguages = {
  name: 'zod-without-languages',
  setup(build) {
    build.onResolve({ filter: /locales\/index\.js$/ }, ({ path: wanted }) => ({ path: wanted, namespace: 'no-languages' }));
    build.onLoad({ filter: /./, namespace: 'no-languages' }, () => ({ contents: 'export {};' }));
  },
};

/** Builds into a folder of its own and swaps it in, so that a process reading dist/ never sees half of it. */
export async function build() {
  const { build: bundle } = await import('esbuild');
  const dependencies = Object.keys(JSON.parse(await readFile(path.join(root, 'package.json'), 'utf8')).dependencies);
  const fresh = await mkdtemp(path.join(root, 'dist-'));
  try {
    await bundle({
      absWorkingDir: root,
      // Beside the program, what it runs in threads of its own.
      entryPoints: { main: 'src/main.ts', 'worker-thread': 'src/app/workers/worker-thread.ts' },
      outdir: fresh,
      bundle: true,
      splitting: true,
      // Packages stay outside, but for zod: the messages of fifty languages that it brings would cost a third of the start.
      plugins: [withoutLanguages],
      external: dependencies.filter((name) => name !== 'zod').flatMap((name) => [name, `${name}/*`]),
      platform: 'node',
      target: 'node22.15',
      format: 'esm',
      sourcemap: true,
      logLevel: 'warning',
    });
    // Scripts for Redis are read as files, at run time.
    await cp(path.join(root, 'src/redis/scripts'), path.join(fresh, 'scripts'), { recursive: true });
    await writeFile(path.join(fresh, '.built'), '');
    const dist = path.join(root, 'dist');
    const old = `${fresh}-old`;
    await rename(dist, old).catch((error) => {
      if (error.code !== 'ENOENT') throw error;
    });
    await rename(fresh, dist).catch(async (error) => {
      // Another build swapped its own in between: that one is as good.
      if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error;
      await rm(fresh, { recursive: true, force: true });
    });
    await rm(old, { recursive: true, force: true });
  } catch (error) {
    await rm(fresh, { recursive: true, force: true });
    throw error;
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await build();
