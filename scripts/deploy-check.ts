// What checks of deployment files are made of.
import { spawn } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

/** The folder that holds package.json. */
export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');

/** One check: passes by ending, else throws. */
export type Check = () => void | Promise<void>;

/** The cause of a failed check, shown as it stands. */
export class Failure extends Error {}
/** Why a check could not be made. With CI=true that is a failure: there, the tool should have been had. */
export class Skip extends Error {}
/** Why a check cannot be made on a machine of this kind, which is no failure anywhere. */
export class Inapplicable extends Skip {}

export interface Ran {
  readonly code: number;
  /** stdout and stderr, in the order they came. */
  readonly output: string;
}

export interface RunOptions {
  readonly env?: NodeJS.ProcessEnv;
  readonly msMax?: number;
  /** Text for its standard input; absent: it has none. */
  readonly input?: string;
}

/** Runs a program in the root folder. Rejects when it cannot be started, or does not end in time. */
export function run(command: string, args: readonly string[], { env = process.env, msMax = 120_000, input }: RunOptions = {}): Promise<Ran> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: root, env, stdio: ['pipe', 'pipe', 'pipe'], signal: AbortSignal.timeout(msMax) });
    let output = '';
    const keep = (chunk: Buffer): void => {
      output += chunk.toString('utf8');
    };
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    child.on('error', (error) => reject(error.name === 'AbortError' ? new Failure(`${command} took longer than ${msMax} ms`) : error));
    child.on('close', (code, signal) => resolve({ code: code ?? 1, output: signal === null ? output : `${output}\n(ended by ${signal})` }));
    // One that reads nothing may have ended by then.
    child.stdin.on('error', () => {});
    child.stdin.end(input);
  });
}

/** The output of a program that has to succeed. */
export async function expectSuccess(what: string, running: Promise<Ran>): Promise<string> {
  const { code, output } = await running;
  if (code !== 0) throw new Failure(`${what}: exit code ${code}\n${output.trim()}`);
  return output;
}
