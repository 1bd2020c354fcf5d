import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

/** A file of this package by its path from the package's root, whether this code runs from src/ or from the bundle in dist/. */
export function packageFile(relative: string): string {
  let folder = path.dirname(fileURLToPath(import.meta.url));
  while (!existsSync(path.join(folder, 'package.json'))) {
    const parent = path.dirname(folder);
    if (parent === folder) throw new Error(`package.json is not above ${fileURLToPath(import.meta.url)}: the installation is incomplete`);
    folder = parent;
  }
  return path.join(folder, relative);
}

/** This package's version. */
export function packageVersion(): string {
  return (JSON.parse(readFileSync(packageFile('package.json'), 'utf8')) as { version: string }).version;
}
