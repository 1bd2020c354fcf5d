import { execFile } from 'node:child_process';
import { createServer, request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { createLogger, type Logger } from './logger.ts';

const secret = 'tell-nobody';

/** A logger and the lines it wrote. */
function logged(level: Parameters<typeof createLogger>[0]['level'] = 'trace'): { logger: Logger; lines: () => Record<string, unknown>[]; text: () => string } {
  let text = '';
  const logger = createLogger({ level, destination: { write: (line) => (text += line) } });
  const lines = (): Record<string, unknown>[] =>
    text
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  return { logger, lines, text: () => text };
}

describe('createLogger', () => {
  it('writes one JSON object a line: level by name, ISO time, fields, text', () => {
    const { logger, lines } = logged();
    logger.warn({ event: 'lease_expired', count: 3, on: true, none: null }, 'Text.');
    const [{ time, ...line } = {}] = lines();
    expect(line).toEqual({ level: 'warn', event: 'lease_expired', count: 3, on: true, none: null, msg: 'Text.' });
    expect(time).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  });

  it('leaves out what is below the level', () => {
    const { logger, lines } = logged('warn');
    logger.info('quiet');
    logger.error('loud');
    expect(lines().map(({ msg }) => msg)).toEqual(['loud']);
  });

  it.each([
    'prompt',
    'promptText',
    'messages',
    'input',
    'instructions',
    'system',
    'content',
    'body',
    'session',
    'sessionKey',
    'x-session-id',
    'x-claude-code-session-id',
    'prompt_cache_key',
    'tenant',
    'X-Tenant-Id',
    'user',
    'authorization',
    'Proxy-Authorization',
    'cookie',
    'Set-Cookie',
    'x-api-key',
    'apiKey',
    'api_key',
    'affinitySecret',
    'password',
    'headers',
    'rawHeaders',
    'facts',
    'request',
    'req',
  ])('never writes what is named %s, however it is given', (name) => {
    const { logger, lines, text } = logged();
    logger.info({ [name]: secret }, 'field');
    logger.info({ [name]: [secret] }, 'list');
    logger.info({ a: { b: [{ [name]: { c: secret } }] } }, 'nested');
    logger.child({ [name]: secret }).info('child');
    logger.child({ a: { [name]: secret } }, { level: 'info' }).info('nested in a child');
    logger.child({ a: 1 }).child({ [name]: secret }).info('grandchild');
    logger.setBindings({ [name]: secret });
    logger.info('bound');
    expect(lines()).toHaveLength(7);
    expect(text()).not.toContain(secret);
  });

  it('writes numbers whatever they are named: counts are no secrets', () => {
    const { logger, lines } = logged();
    logger.info({ promptTokens: 12, sessions: 3, sessionBound: true }, 'x');
    expect(lines()[0]).toMatchObject({ promptTokens: 12, sessions: 3, sessionBound: true });
  });

  it('ignores arguments for placeholders, so that no value gets into the text', () => {
    const { logger, lines, text } = logged();
    logger.info('model %s', secret);
    logger.info({ a: 1 }, 'model %o', { secret });
    expect(lines().map(({ msg }) => msg)).toEqual(['model %s', 'model %o']);
    expect(text()).not.toContain(secret);
  });

  it('writes an error with code, frames and causes', () => {
    const { logger, lines } = logged();
    const error = Object.assign(new TypeError('outer', { cause: new Error('inner') }), { code: 'EPIPE', details: secret, metadata: { secret } });
    logger.error({ err: error }, 'Text.');
    logger.error(error, 'Text.');
    for (const line of lines()) {
      expect(line).toMatchObject({ msg: 'Text.', err: { type: 'TypeError', message: 'outer', code: 'EPIPE', cause: { type: 'Error', message: 'inner' } } });
      expect((line['err'] as { stack: string }).stack).toMatch(/^ {4}at .*logger\.test\.ts/);
      expect(JSON.stringify(line)).not.toContain(secret);
    }
  });

  it("never writes a parser's message, which quotes what it parsed", () => {
    const { logger, lines, text } = logged();
    let parserError: unknown;
    try {
      JSON.parse('{"messages": qqqq}');
    } catch (error) {
      parserError = error;
    }
    expect((parserError as Error).message).toContain('qqqq');
    logger.error({ err: parserError }, 'given text');
    logger.error({ err: parserError });
    logger.error(parserError as Error);
    logger.error({ err: new Error('outer', { cause: parserError }) }, 'as a cause');
    logger.error({ err: new SyntaxError('two lines\n    at qqqq') }, 'like a frame');
    expect(lines()).toHaveLength(5);
    expect(text()).not.toContain('qqqq');
  });

  it('says only the type of what was thrown and is no error', () => {
    const { logger, lines, text } = logged();
    logger.error({ err: secret }, 'thrown');
    expect(lines()[0]).toMatchObject({ err: { type: 'string' } });
    expect(text()).not.toContain(secret);
  });

  it('names objects that are not plain data instead of showing them', () => {
    const { logger, lines, text } = logged();
    class Holder {
      held = secret;
    }
    logger.info({ a: new Holder(), b: Buffer.from(secret), c: new Map([[secret, secret]]), d: () => secret, e: Symbol(secret) }, 'x');
    logger.info(new Holder() as unknown as Record<string, unknown>, 'itself');
    expect(lines()[0]).toMatchObject({ a: '[Holder]', b: '[Buffer]', c: '[Map]', d: '[function]', e: '[symbol]' });
    expect(lines()[1]).toMatchObject({ dropped: '[Holder]', msg: 'itself' });
    expect(text()).not.toContain(secret);
  });

  it('shows nothing of real HTTP requests and responses', async () => {
    const { logger, lines, text } = logged();
    const server = createServer((incoming, outgoing) => {
      outgoing.setHeader('x-secret', secret);
      logger.info(incoming as unknown as Record<string, unknown>, 'in');
      logger.info(outgoing as unknown as Record<string, unknown>, 'out');
      logger.info({ incoming, outgoing, socket: incoming.socket }, 'as fields');
      outgoing.end();
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    await new Promise<void>((resolve, reject) => {
      const { port } = server.address() as AddressInfo;
      request({ port, host: '127.0.0.1', path: `/${secret}`, headers: { authorization: secret } }, (response) => response.resume().on('end', resolve))
        .on('error', reject)
        .end();
    });
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
    expect(lines()).toHaveLength(3);
    expect(text()).not.toContain(secret);
  });

  it('bounds depth, width and length, and survives circles, throwing getters and bad dates', () => {
    const { logger, lines, text } = logged();
    const circle: Record<string, unknown> = { at: new Date(0), bad: new Date(Number.NaN), big: 12n };
    circle['self'] = circle;
    Object.defineProperty(circle, 'broken', { enumerable: true, get: () => { throw new Error('no'); } });
    logger.info(circle, 'x');
    logger.info({ long: 'y'.repeat(1_000_000), wide: Array.from({ length: 10_000 }, (_, i) => i), keys: Object.fromEntries(Array.from({ length: 10_000 }, (_, i) => [`k${i}`, i])) }, 'z'.repeat(1_000_000));
    expect(lines()[0]).toMatchObject({ at: '1970-01-01T00:00:00.000Z', bad: null, big: '12', broken: '[unreadable]' });
    expect(lines()).toHaveLength(2);
    expect(text().length).toBeLessThan(20_000);
  });

  it('takes __proto__ as a name like any other', () => {
    const { logger, lines } = logged();
    logger.info(JSON.parse('{"__proto__": {"level": "fatal"}, "a": 1}') as Record<string, unknown>, 'x');
    expect(lines()[0]).toMatchObject({ level: 'info', a: 1 });
  });

  it('writes to stdout, and loses nothing when the process exits at once', async () => {
    const script = `
      import { createLogger } from ${JSON.stringify(new URL('./logger.ts', import.meta.url).href)};
      const logger = createLogger({ level: 'info' });
      for (let i = 0; i < 1000; i += 1) logger.info({ i }, 'line');
      process.exit(3);`;
    const outcome = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', script]).catch((error: unknown) => error);
    const { code, stdout } = outcome as { code: number; stdout: string };
    expect(code).toBe(3);
    expect(stdout.trimEnd().split('\n').map((line) => (JSON.parse(line) as { i: number }).i)).toEqual(Array.from({ length: 1000 }, (_, i) => i));
  });
});
