import { spawn } from 'node:child_process';
import path from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { projectRoot } from '../../lab/child-process.ts';

const lab = path.join(projectRoot, 'lab/child-process.ts');
/** A program that runs another one beside it, and tells that one's pid. */
const program = `
  import { endChildrenOnSignal, runProgram } from ${JSON.stringify(lab)};
  endChildrenOnSignal();
  console.log(runProgram('sleep', ['120'], { name: 'sleep' }).pid);
  setInterval(() => {}, 1_000);
`;

let childPid: number | undefined;
afterEach(() => {
  if (childPid !== undefined && isAlive(childPid)) process.kill(childPid, 'SIGKILL');
});

it.each([
  ['SIGTERM', 143],
  ['SIGINT', 130],
  ['SIGHUP', 129],
] as const)('%s ends a benchmark with all that it started', async (signal, code) => {
  const parent = spawn(process.execPath, ['--input-type=module', '-e', program], { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = new Promise<number | null>((resolve) => parent.once('exit', resolve));
  try {
    childPid = Number(await new Promise<string>((resolve) => parent.stdout.once('data', (text: Buffer) => resolve(text.toString()))));
    expect(isAlive(childPid)).toBe(true);
    parent.kill(signal);
    expect(await ended).toBe(code);
    // The signal is sent by then; that it arrived shows a moment later.
    await expect.poll(() => isAlive(childPid ?? -1), { timeout: 5_000 }).toBe(false);
  } finally {
    parent.kill('SIGKILL');
    await ended;
  }
});

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
