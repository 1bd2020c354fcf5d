import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import path from 'node:path';
import { CommanderError } from 'commander';
import { afterEach, describe, expect, it } from 'vitest';
import { modelServerCommand, parsePorts } from './command.ts';

describe('parsePorts', () => {
  it.each([
    ['18001', [18001]],
    ['18001-18003', [18001, 18002, 18003]],
    ['18001, 18010-18011', [18001, 18010, 18011]],
    ['18001-18002,18002', [18001, 18002]],
  ])('%s', (text, ports) => {
    expect(parsePorts(text)).toEqual(ports);
  });

  it.each(['', '0', '65536', '18003-18001', '18001-', 'http', '18001,,18002', '1-65535'])('refuses "%s"', (text) => {
    expect(() => parsePorts(text)).toThrow(/port/i);
  });
});

describe('options', () => {
  /** Runs the command up to its complaint; returns code and message. */
  async function complaint(...words: string[]): Promise<{ exitCode: number; message: string }> {
    let message = '';
    const command = modelServerCommand().exitOverride().configureOutput({
      writeErr: (text) => (message += text),
      writeOut: (text) => (message += text),
    });
    const error: unknown = await command.parseAsync(words, { from: 'user' }).then(
      () => undefined,
      (cause: unknown) => cause,
    );
    if (!(error instanceof CommanderError)) throw new Error('expected a complaint', { cause: error });
    return { exitCode: error.exitCode, message };
  }

  it.each([
    [[], "required option '--ports <ports>' not specified"],
    [['--ports', 'x'], '"x" is neither a port'],
    [['--ports', '18001', '--profile', 'h100'], 'Allowed choices are demo, dynamo-mocker'],
    [['--ports', '18001', '--time-scale', '0'], 'A number above 0'],
    [['--ports', '18001', '--slow-factor', 'fast'], 'A number above 0'],
    [['--ports', '18001', '--startup-ms', '-1'], 'A whole number of milliseconds'],
    [['--ports', '18001', '--wrong'], "unknown option '--wrong'"],
  ])('%j', async (words, message) => {
    const result = await complaint(...words);
    expect(result.exitCode).toBe(1);
    expect(result.message).toContain(message);
  });

  it('explains itself', async () => {
    const { exitCode, message } = await complaint('--help');
    expect(exitCode).toBe(0);
    for (const word of ['simulated', '--ports', '--time-scale', '--startup-ms', 'POST /_sim']) expect(message).toContain(word);
  });
});

describe('process', () => {
  const children: ChildProcess[] = [];
  afterEach(() => {
    for (const child of children.splice(0)) if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL');
  });

  function run(...words: string[]): { child: ChildProcess; output: () => string } {
    const script = [
      "import { modelServerCommand } from './sim/model-server/command.ts';",
      "await modelServerCommand().parseAsync(process.argv.slice(1), { from: 'user' });",
    ].join('\n');
    const root = path.resolve(import.meta.dirname, '../..');
    const flags = ['--experimental-strip-types', '--no-warnings', '--input-type=module'];
    const child = spawn(process.execPath, [...flags, '-e', script, '--', ...words], { cwd: root });
    children.push(child);
    let output = '';
    child.stdout.on('data', (chunk) => (output += String(chunk)));
    child.stderr.on('data', (chunk) => (output += String(chunk)));
    return { child, output: () => output };
  }

  /** Two free ports next to each other would be luck: any two. */
  async function freePorts(): Promise<[number, number]> {
    const listeners = [net.createServer(), net.createServer()];
    const ports: number[] = [];
    for (const listener of listeners) {
      listener.listen(0, '127.0.0.1');
      await once(listener, 'listening');
      ports.push((listener.address() as net.AddressInfo).port);
    }
    await Promise.all(listeners.map(async (listener) => once(listener.close(), 'close')));
    return [ports[0]!, ports[1]!];
  }

  it.each(['SIGTERM', 'SIGINT'] as const)('says what it is, serves every port, and ends well on %s', async (signal) => {
    const ports = await freePorts();
    const { child, output } = run('--ports', ports.join(','), '--model', 'mine', '--time-scale', '50');
    for (const port of ports) {
      while (!output().includes(`listening on http://127.0.0.1:${port}\n`)) {
        await Promise.race([once(child.stdout!, 'data'), once(child, 'exit').then(() => expect.fail(output()))]);
      }
      expect(await (await fetch(`http://127.0.0.1:${port}/v1/models`)).text()).toContain('"mine"');
    }
    expect(output()).toMatch(/^SIMULATED model servers: no model, no GPU/);
    // One switches the other.
    const body = JSON.stringify({ port: ports[1], mode: 'fail', failStatus: 418 });
    const change = await fetch(`http://127.0.0.1:${ports[0]}/_sim`, { method: 'POST', body });
    expect(change.status).toBe(200);
    expect((await fetch(`http://127.0.0.1:${ports[1]}/echo`)).status).toBe(418);
    child.kill(signal);
    expect(await once(child, 'exit')).toEqual([0, null]);
  });

  it('says clearly that a port is taken, and lets go of the others', async () => {
    const taken = net.createServer().listen(0, '127.0.0.1');
    await once(taken, 'listening');
    const { port } = taken.address() as net.AddressInfo;
    const [free] = await freePorts();
    const { child, output } = run('--ports', `${free},${port}`);
    expect(await once(child, 'close')).toEqual([1, null]);
    expect(output()).toContain(`error: port ${port} on 127.0.0.1 is taken: stop what listens there, or choose other --ports`);
    taken.close();
  });
});
