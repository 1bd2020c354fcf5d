import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** With `--write` on the command line writes a page that is made from the registry, else has the process end with 1 where it is stale. */
export function writeOrCheck(page: string, wanted: string): void {
  const file = fileURLToPath(new URL(`../${page}`, import.meta.url));
  if (process.argv.includes('--write')) {
    writeFileSync(file, wanted);
    return;
  }
  let found = '';
  try {
    found = readFileSync(file, 'utf8');
  } catch {
    // Missing is as stale as it gets.
  }
  if (found === wanted) return;
  process.stderr.write(`${page} is not what the registry makes of it: run \`npm run docs\`\n`);
  process.exitCode = 1;
}
