import { type ChildProcess, spawn } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

/** The folder that holds package.json. */
export const projectRoot = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');

const stopMsMax = 40_000;
const logCharsMax = 1_000_000;

/** A program of ours that runs beside a test, the demo or a benchmark. */
export interface RunningChild {
  readonly pid: number;
  /** What it wrote so far, both streams (its end, when long). */
  log(): string;
  /** The first line of output, past or future, from which `read` makes something; rejects with the log when none comes in time. */
  waitForLine<T>(read: (line: string) => T | undefined, msMax?: number): Promise<T>;
  signal(signal: NodeJS.Signals): void;
  /** Resolves with exit code or signal once it has ended. */
  readonly ended: Promise<number | NodeJS.Signals>;
  /** SIGTERM, and SIGKILL when that does not help in time. Resolves when it has ended. May be called again. */
  stop(): Promise<number | NodeJS.Signals>;
}

/**
 * Has a signal end this process as its own end does: with all that runs beside it. By itself a signal would end nothing else. For programs, not
 * for tests.
 */
export function endChildrenOnSignal(): void {
  for (const [signal, code] of signalCodes) process.once(signal, () => process.exit(code));
}

/** What shells make of them: 128 and the signal's number. */
const signalCodes = [
  ['SIGHUP', 129],
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const;

/** Runs `bin/fairlead` with arguments. The process does not outlive this one. */
export function runFairlead(args: readonly string[], env: NodeJS.ProcessEnv = {}): RunningChild {
  return runProgram(path.join(projectRoot, 'bin/fairlead'), args, { name: `fairlead ${args[0] ?? ''}`, env });
}

/** Runs a program with arguments, known by `name` in what is said of it. The process does not outlive this one. */
export function runProgram(
  file: string,
  args: readonly string[],
  { name, env = {} }: { readonly name: string; readonly env?: NodeJS.ProcessEnv },
): RunningChild {
  const child: ChildProcess = spawn(file, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
  });
  let log = '';
  let rest = '';
  const lines: string[] = [];
  const listeners = new Set<() => void>();
  const keep = (chunk: Buffer): void => {
    const text = chunk.toString('utf8');
    log = (log + text).slice(-logCharsMax);
    const parts = (rest + text).split('\n');
    rest = parts.pop() ?? '';
    lines.push(...parts);
    if (lines.length > 20_000) lines.splice(0, lines.length - 20_000);
    for (const listener of [...listeners]) listener();
  };
  child.stdout?.on('data', keep);
  child.stderr?.on('data', keep);
  const killAtExit = (): void => {
    child.kill('SIGKILL');
  };
  process.once('exit', killAtExit);
  let over = false;
  const ended = new Promise<number | NodeJS.Signals>((resolve) => {
    child.once('error', (error) => {
      log += `\n${name} could not be started: ${error.message}`;
      over = true;
      resolve(127);
    });
    child.once('close', (code, signal) => {
      over = true;
      process.off('exit', killAtExit);
      for (const listener of [...listeners]) listener();
      resolve(signal ?? code ?? 1);
    });
  });

  return {
    pid: child.pid ?? -1,
    log: () => log,
    signal: (signal) => void child.kill(signal),
    ended,
    waitForLine: (read, msMax = 20_000) =>
      new Promise((resolve, reject) => {
        let seen = 0;
        const done = (): void => {
          listeners.delete(look);
          clearTimeout(timer);
        };
        const look = (): void => {
          for (; seen < lines.length; seen += 1) {
            const found = read(lines[seen] ?? '');
            if (found === undefined) continue;
            done();
            resolve(found);
            return;
          }
          if (over) {
            done();
            reject(new Error(`${name} ended before it was ready:\n${log.slice(-4_000)}`));
          }
        };
        const timer = setTimeout(() => {
          done();
          reject(new Error(`${name} was not ready after ${msMax} ms:\n${log.slice(-4_000)}`));
        }, msMax);
        listeners.add(look);
        look();
      }),
    stop: async () => {
      if (!over) child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), stopMsMax);
      const result = await ended;
      clearTimeout(timer);
      return result;
    },
  };
}
