import { mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openLineFile } from './line-file.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'fairlead-lines-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const unexpected = (error: Error): void => expect.fail(error.message);

describe('openLineFile', () => {
  it('appends lines, and has written them all once it is closed', async () => {
    const file = path.join(folder, 'lines');
    for (const part of ['a', 'b']) {
      const lines = await openLineFile(file, unexpected);
      for (let i = 0; i < 500; i += 1) expect(lines.write(`${part}${i}\n`)).toBe(true);
      await lines.close();
      expect(lines.write('too late\n')).toBe(false);
      await lines.close();
    }
    const expected = ['a', 'b'].flatMap((part) => Array.from({ length: 500 }, (_, i) => `${part}${i}`));
    expect(readFileSync(file, 'utf8').trimEnd().split('\n')).toEqual(expected);
  });

  it('refuses what cannot be opened', async () => {
    await expect(openLineFile(path.join(folder, 'none/lines'), unexpected)).rejects.toThrow('ENOENT');
    await expect(openLineFile(folder, unexpected)).rejects.toThrow('EISDIR');
  });

  it('goes on in a new file after the old one was renamed', async () => {
    const file = path.join(folder, 'lines');
    const lines = await openLineFile(file, unexpected);
    lines.write('before\n');
    await expect.poll(() => readFileSync(file, 'utf8')).toBe('before\n');
    renameSync(file, `${file}.1`);
    lines.reopen();
    lines.write('after\n');
    await lines.close();
    expect(readFileSync(`${file}.1`, 'utf8') + readFileSync(file, 'utf8')).toBe('before\nafter\n');
    expect(readFileSync(file, 'utf8')).toBe('after\n');
  });

  it('drops, and says so, what a destination does not take, and never waits', async () => {
    // Nothing is written before this turn of the loop is over: all of it would have to be kept.
    const lines = await openLineFile(path.join(folder, 'lines'), unexpected);
    const line = `${'x'.repeat(1_023)}\n`;
    let taken = 0;
    for (let i = 0; i < 8_192; i += 1) if (lines.write(line)) taken += 1;
    expect(taken).toBeGreaterThan(1_000);
    expect(taken).toBeLessThan(6_000);
    await lines.close();
    expect(readFileSync(path.join(folder, 'lines'), 'utf8')).toBe(line.repeat(taken));
  });
});
