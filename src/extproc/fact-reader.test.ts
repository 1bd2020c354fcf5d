import { describe, expect, it } from 'vitest';
import { loadConfig } from '../config/load.ts';
import type { FactNeed, RequestFacts } from '../core/request-facts.ts';
import { BodyScanner } from './body-scanner.ts';
import { FactReader, type FactSources, type HeaderFacts } from './fact-reader.ts';

const sources: FactSources = {
  model: [{ header: 'x-model' }, { body: 'model' }],
  session: [{ header: 'x-session-id' }, { cookie: 'sid' }, { body: 'metadata.user_id' }],
  tenant: [{ header: 'x-tenant' }],
};
const reader = new FactReader(sources, 1_000);
const needs = (...facts: FactNeed[]): ReadonlySet<FactNeed> => new Set(facts);

function read(headers: readonly (readonly [string, string])[], from: FactReader = reader): HeaderFacts {
  const all = [[':path', '/v1/chat/completions'], ...headers] as const;
  return from.readHeaders({ headers: all.map(([key, value]) => ({ key, raw_value: Buffer.from(value) })) });
}

function scan(text: string, headers: HeaderFacts, missing: ReadonlySet<FactNeed>, measure = false, from: FactReader = reader): BodyScanner {
  const scanner = new BodyScanner(from.planScan(headers, missing, measure));
  scanner.push(Buffer.from(text));
  return scanner;
}

describe('readHeaders', () => {
  it('takes the path without its query, and which prompt fields go with it', () => {
    const { path, promptFields, bodyUnusable } = reader.readHeaders({
      headers: [{ key: ':path', raw_value: Buffer.from('/v1/completions?a=/b#c') }],
    });
    expect({ path, promptFields, bodyUnusable }).toEqual({ path: '/v1/completions', promptFields: ['prompt'], bodyUnusable: undefined });
    expect(reader.readHeaders(undefined)).toMatchObject({ path: '', bodyUnusable: 'unknown-path' });
  });

  it('keeps only what facts can come from', () => {
    const { values } = read([
      ['authorization', 'secret'],
      ['x-model', 'm'],
    ]);
    expect([...values.keys()].sort()).toEqual([':path', 'x-model']);
  });

  it('lets the first of a repeated header count, and joins cookies', () => {
    const facts = read([
      ['x-model', 'first'],
      ['x-model', 'second'],
      ['cookie', 'a=1'],
      ['cookie', 'sid=s'],
    ]);
    expect(reader.toFacts(facts, undefined, undefined, undefined)).toMatchObject({ model: 'first', session: 's' });
  });

  it('reads `value` where an Envoy fills that', () => {
    expect(reader.readHeaders({ headers: [{ key: 'x-model', value: 'm' }, { value: 'no key' }] }).values.get('x-model')).toBe('m');
  });

  it.each([
    ['0', 0],
    ['12', 12],
    ['-1', undefined],
    ['1e3', undefined],
    ['', undefined],
    ['1234567890123456', undefined],
  ])('takes content-length %j for %s', (text, expected) => {
    expect(read([['content-length', text]]).contentLengthBytes).toBe(expected);
  });

  it.each([
    ['content-type', 'application/json', undefined],
    ['content-type', ' Application/JSON; charset=utf-8', undefined],
    ['content-type', 'application/vnd.api+json', undefined],
    ['content-type', 'application/jsonlines', 'not-json'],
    ['content-type', 'text/plain', 'not-json'],
    ['content-encoding', 'identity', undefined],
    ['content-encoding', '', undefined],
    ['content-encoding', 'gzip', 'compressed'],
    ['content-encoding', 'gzip, identity', 'compressed'],
  ])('%s %j makes the body %s', (key, value, expected) => {
    expect(read([[key, value]]).bodyUnusable).toBe(expected);
  });

});

describe('what a value may be', () => {
  it.each([
    ['x'.repeat(256), 'x'.repeat(256)],
    ['x'.repeat(257), undefined],
    ['', undefined],
    ['modèle', 'modèle'],
  ])('a model named %j is %j', (value, expected) => {
    expect(reader.toFacts(read([['x-model', value]]), undefined, undefined, undefined).model).toBe(expected);
  });

  it.each([
    ['sid=s', 's'],
    ['a=1;sid=s;b=2', 's'],
    [' sid = s ', 's'],
    ['sid="s"', 's'],
    ['sid="', '"'],
    ['sid=a=b', 'a=b'],
    ['xsid=s; sidx=s', undefined],
    ['sid', undefined],
    ['sid=', undefined],
    [`a=${'x'.repeat(16_400)}; sid=s`, undefined],
  ])('the cookie header %j holds %j', (cookie, expected) => {
    expect(reader.toFacts(read([['cookie', cookie]]), undefined, undefined, undefined).session).toBe(expected);
  });

  it.each([
    ['"m"', 'm'],
    ['7', '7'],
    ['true', undefined],
    ['null', undefined],
    ['""', undefined],
  ])('the body field %s is %j', (value, expected) => {
    const headers = read([]);
    const body = scan(`{"model":${value}}`, headers, needs('model'));
    expect(reader.toFacts(headers, undefined, body, undefined).model).toBe(expected);
  });
});

describe('sources in order', () => {
  const bodyFirst = new FactReader({ ...sources, model: [{ body: 'model' }, { header: 'x-model' }] }, 1_000);
  const text = '{"model":"in-body","metadata":{"user_id":"u"}}';

  it('a header before the body fields settles the fact', () => {
    const headers = read([['x-model', 'in-header']]);
    expect(reader.needsBody('model', headers)).toBe(false);
    expect(reader.toSettled(headers)).toMatchObject({ path: '/v1/chat/completions', model: 'in-header', session: undefined });
    expect(reader.toFacts(headers, undefined, scan(text, headers, needs('model')), undefined).model).toBe('in-header');
  });

  it('a header after the body fields does not, but serves where there is no body', () => {
    const headers = read([['x-model', 'in-header']], bodyFirst);
    expect(bodyFirst.needsBody('model', headers)).toBe(true);
    expect(bodyFirst.toSettled(headers).model).toBeUndefined();
    expect(bodyFirst.toFacts(headers, undefined, undefined, undefined).model).toBe('in-header');
    expect(bodyFirst.toFacts(headers, undefined, scan(text, headers, needs('model'), false, bodyFirst), undefined).model).toBe('in-body');
  });

  it('a body that cannot be used leaves the header to settle it', () => {
    const headers = read(
      [
        ['x-model', 'in-header'],
        ['content-encoding', 'gzip'],
      ],
      bodyFirst,
    );
    expect(bodyFirst.needsBody('model', headers)).toBe(false);
    expect(bodyFirst.toSettled(headers).model).toBe('in-header');
  });
});

describe('what tells clients apart', () => {
  const session = (from: FactSources['session'], headers: readonly (readonly [string, string])[], clientAddress?: string): string | undefined => {
    const of = new FactReader({ ...sources, session: from, tenant: [] }, 1_000);
    const list = [[':path', '/v1/chat/completions'], ...headers].map(([key = '', value = '']) => ({ key, raw_value: Buffer.from(value) }));
    const read = of.readHeaders({ headers: list }, clientAddress);
    expect(of.needsBody('session', read)).toBe(false);
    const found = of.toFacts(read, undefined, undefined, undefined).session;
    expect(of.toSettled(read).session).toBe(found);
    return found;
  };

  it.each<[string, true | { trustedHops?: number; ipv6Prefix: number }, string | undefined, string[], string | undefined]>([
    ['as Envoy tells it', true, '192.0.2.7', ['198.51.100.1'], 'ip:192.0.2.7'],
    ['unknown where Envoy does not tell it, whatever the client says', true, undefined, ['198.51.100.1'], undefined],
    ['the /64 of an IPv6 address', true, '2001:db8::7', [], 'ip:2001:db8:0:0:0:0:0:0/64'],
    ['cut as told', { ipv6Prefix: 48 }, '2001:db8:1:2::7', [], 'ip:2001:db8:1:0:0:0:0:0/48'],
    ['by x-forwarded-for where told', { trustedHops: 0, ipv6Prefix: 64 }, '192.0.2.7', ['198.51.100.1, 203.0.113.9'], 'ip:203.0.113.9'],
    ['by all lines of x-forwarded-for', { trustedHops: 1, ipv6Prefix: 64 }, '192.0.2.7', ['10.0.0.1', '198.51.100.1', '203.0.113.9'], 'ip:198.51.100.1'],
    ['no other where x-forwarded-for is short', { trustedHops: 2, ipv6Prefix: 64 }, '192.0.2.7', ['203.0.113.9'], undefined],
  ])('the address: %s', (_title, clientIp, attribute, forwarded, expected) => {
    const headers = forwarded.map((value) => ['x-forwarded-for', value] as const);
    expect(session([{ clientIp }], headers, attribute)).toBe(expected);
  });

  it('a token: one session for each, without the token in it', () => {
    const from: FactSources['session'] = [{ tokenHash: 'authorization' }];
    const of = (value: string): string | undefined => session(from, [['authorization', value]]);
    const one = of('Bearer sk-one')!;
    expect(one).toMatch(/^hash:[A-Za-z0-9_-]{43}$/);
    expect(of('Bearer sk-one')).toBe(one);
    expect(of('Bearer sk-two')).not.toBe(one);
    expect(of('')).toBeUndefined();
    // Longer than any session that a client may name, as tokens are.
    expect(of(`Bearer ${'x'.repeat(4_000)}`)).toMatch(/^hash:/);
    expect(of(`Bearer ${'x'.repeat(20_000)}`)).toBeUndefined();
    expect(session(from, [])).toBeUndefined();
    // The same text under another header is another matter.
    expect(session([{ tokenHash: 'x-api-key' }], [['x-api-key', 'Bearer sk-one']])).not.toBe(one);
  });

  it('several headers: all of them, none run into another', () => {
    const from: FactSources['session'] = [{ headerHash: ['x-a', 'x-b'] }];
    const of = (a: string, b: string): string | undefined => session(from, [['x-a', a], ['x-b', b]]);
    expect(of('1', '2')).toMatch(/^hash:/);
    expect(of('1', '2')).toBe(of('1', '2'));
    expect(new Set([of('1', '2'), of('2', '1'), of('12', ''), of('1;x-b:1:2', '2'), of('12', '2')]).size).toBe(5);
    expect(session(from, [['x-a', '1']])).toBeUndefined();
  });

  it('the next source counts where one has nothing', () => {
    const from: FactSources['session'] = [{ tokenHash: 'authorization' }, { headerHash: ['x-a', 'x-b'] }, { clientIp: true }, { header: 'x-last' }];
    const last = [['x-last', 'l']] as const;
    expect(session(from, last)).toBe('l');
    expect(session(from, last, '192.0.2.7')).toBe('ip:192.0.2.7');
    expect(session(from, [...last, ['x-a', '1'], ['x-b', '2']], '192.0.2.7')).toMatch(/^hash:/);
  });
});

describe('the default sources of a session', () => {
  const outcome = loadConfig("pools: [{ name: chat, endpoints: [{ address: '10.0.0.1:80' }] }]");
  const { session } = outcome.ok ? outcome.config.settings.facts : { session: [] };
  const of = new FactReader({ ...sources, session }, 1_000);
  const found = (headers: readonly (readonly [string, string])[], body: object): string | undefined => {
    const facts = read(headers, of);
    return of.toFacts(facts, undefined, scan(JSON.stringify(body), facts, needs('session'), false, of), undefined).session;
  };

  it.each<[string, readonly (readonly [string, string])[], object, string | undefined]>([
    ['a header', [['x-session-id', 'h']], { user: 'u' }, 'h'],
    ['the header of OpenCode and others', [['x-session-affinity', 'h']], {}, 'h'],
    ['the header of Claude Code', [['x-claude-code-session-id', 'h']], { metadata: { user_id: 'u' } }, 'h'],
    ['the header of Codex', [['session_id', 'h']], { prompt_cache_key: 'k' }, 'h'],
    ['the same where underscores are not liked', [['session-id', 'h']], { prompt_cache_key: 'k' }, 'h'],
    ['a cookie', [['cookie', 'fairlead-session=c']], { prompt_cache_key: 'k' }, 'c'],
    ['a key for the prompt cache', [], { prompt_cache_key: 'k', user: 'u' }, 'k'],
    ['a conversation by its id', [], { conversation: 'conv_1', user: 'u' }, 'conv_1'],
    ['a conversation as an object', [], { conversation: { id: 'conv_2' }, user: 'u' }, 'conv_2'],
    ['a user, Anthropic', [], { metadata: { user_id: 'u' } }, 'u'],
    ['a user, OpenAI', [], { safety_identifier: 's', user: 'u' }, 's'],
    ['a user, OpenAI of old', [], { user: 'u' }, 'u'],
    ['not the response before, which is another on every turn', [], { previous_response_id: 'resp_1' }, undefined],
  ])('%s', (_title, headers, body, expected) => {
    expect(found(headers, body)).toBe(expected);
  });
});

describe('planScan', () => {
  const headers = read([]);

  it('looks for what is missing, and for the tenant along with it', () => {
    const withTenant = new FactReader({ ...sources, tenant: [{ body: 'organization' }] }, 1_000);
    expect(withTenant.planScan(headers, needs('model'), false).fields).toEqual(['model', 'organization']);
    expect(reader.planScan(headers, needs('session', 'stream', 'maxTokens'), false).fields).toEqual([
      'metadata.user_id',
      'stream',
      'max_tokens',
      'max_completion_tokens',
      'max_output_tokens',
    ]);
    expect(reader.planScan(read([['x-session-id', 's']]), needs('session'), false).fields).toEqual([]);
  });

  it('waits for no field of a fact after the first that has it, unless another fact may need it', () => {
    const of = new FactReader(
      {
        model: [{ body: 'model' }],
        session: [{ body: 'key' }, { header: 'x-session-id' }, { body: 'user' }, { body: 'id' }, { body: 'key' }],
        tenant: [{ body: 'org' }, { body: 'user' }],
      },
      1_000,
    );
    const plan = of.planScan(headers, needs('model', 'session'), false);
    expect(plan).toMatchObject({ fields: ['model', 'key', 'user', 'id', 'org'], alternatives: [['model'], ['key', 'id'], ['org']] });
    const text = '{"model":"m","key":"k","org":"o","user":';
    expect(scan(text, headers, needs('model', 'session'), false, of).status).toBe('scanning');
    expect(scan(`${text}"u"`, headers, needs('model', 'session'), false, of).status).toBe('done');
    const noTenant = new FactReader({ model: [], session: [{ body: 'key' }, { body: 'user' }], tenant: [] }, 1_000);
    expect(scan('{"key":"k"', headers, needs('session'), false, noTenant).status).toBe('done');
  });

  it('reads the prompt only to measure or hash it', () => {
    expect(reader.planScan(headers, needs('model'), false)).toMatchObject({
      promptFields: [],
      wantPromptBytes: false,
      prefixBlockBytes: 0,
      scanBytesMax: 1_000,
    });
    expect(reader.planScan(headers, needs('model'), true)).toMatchObject({ promptFields: ['messages', 'tools', 'functions'], wantPromptBytes: true });
    expect(reader.planScan(headers, needs('prefix'), false)).toMatchObject({
      promptFields: ['messages', 'tools', 'functions'],
      prefixBlockBytes: 2_048,
    });
  });

  it('is the same object for the same needs, so that it is compiled once, and another for others', () => {
    const plans = [
      reader.planScan(headers, needs('model'), false),
      reader.planScan(headers, needs('model'), true),
      reader.planScan(headers, needs('session'), false),
      reader.planScan(headers, needs('model', 'prefix'), false),
      reader.planScan(headers, needs('model', 'stream'), false),
      reader.planScan(headers, needs('model', 'maxTokens'), false),
      reader.planScan({ ...headers, promptFields: ['prompt'] }, needs('model'), true),
    ];
    expect(new Set(plans).size).toBe(plans.length);
    expect(reader.planScan(read([['x-session-id', 's']]), needs('model'), false)).toBe(plans[0]);
    expect(reader.planScan(read([]), needs('prefix', 'model'), false)).toBe(plans[3]);
  });
});

describe('toFacts', () => {
  it('estimates the prompt from the text measured, else the body, else what was declared', () => {
    const headers = read([['content-length', '4000']]);
    const body = '{"messages":[{"content":"twelve chars"}]}';
    expect(reader.toFacts(headers, undefined, undefined, undefined).promptTokens).toBe(1_000);
    expect(reader.toFacts(headers, undefined, undefined, 41).promptTokens).toBe(11);
    expect(reader.toFacts(headers, undefined, scan(body, headers, needs(), true), 41).promptTokens).toBe(3);
    // A measure that did not reach the end says too little.
    expect(reader.toFacts(headers, undefined, scan(body.slice(0, -3), headers, needs(), true), 41).promptTokens).toBe(11);
    expect(reader.toFacts(read([]), undefined, undefined, undefined).promptTokens).toBeUndefined();
  });

  it('reads the stream flag and the first limit of tokens', () => {
    const headers = read([]);
    const body = scan('{"stream":true,"max_tokens":"many","max_output_tokens":7}', headers, needs('stream', 'maxTokens'));
    expect(reader.toFacts(headers, undefined, body, undefined)).toMatchObject({ stream: true, maxTokens: 7 });
    expect(reader.toFacts(headers, undefined, scan('{"stream":"yes"}', headers, needs('stream')), undefined).stream).toBeUndefined();
  });

  it.each<[string, string, FactNeed, boolean | undefined]>([
    ['is asked for unless the body says so', '{"messages":[]}', 'stream', false],
    ['is asked for by null', '{"stream":null}', 'stream', false],
    ['is known of in a body that is not through', '{"messages":[', 'stream', undefined],
    ['is known of where it was not looked for', '{"messages":[]}', 'maxTokens', undefined],
  ])('no stream %s', (_title, text, need, stream) => {
    const headers = read([]);
    expect(reader.toFacts(headers, undefined, scan(text, headers, needs(need)), undefined).stream).toBe(stream);
  });

  it('passes the subset on', () => {
    const subset = new Set(['10.0.0.1:80']);
    expect(reader.toFacts(read([]), subset, undefined, undefined).subset).toBe(subset);
  });
});

describe('what routes and guards ask for', () => {
  const asking = new FactReader(
    { ...sources, priority: [{ header: 'x-class' }, { header: 'x-fallback-class' }], deadline: [{ header: 'x-deadline' }, { header: 'x-slo' }] },
    1_000,
    undefined,
    new Set(['x-tier']),
  );
  const readBy = (pairs: readonly (readonly [string, string])[]): HeaderFacts =>
    asking.readHeaders({ headers: [[':path', '/v1/chat/completions'] as const, ...pairs].map(([key, value]) => ({ key, raw_value: Buffer.from(value) })) });
  const factsOf = (pairs: readonly (readonly [string, string])[], elapsedMs = 0): RequestFacts => asking.toFacts(readBy(pairs), undefined, undefined, undefined, elapsedMs);

  it('headers: those named, the first of each, and no other', () => {
    const pairs = [['x-tier', 'small'], ['x-tier', 'big'], ['x-other', '1']] as const;
    expect([...factsOf(pairs).headers]).toEqual([['x-tier', 'small']]);
    expect([...asking.toSettled(readBy(pairs)).headers]).toEqual([['x-tier', 'small']]);
    expect(factsOf([]).headers.size).toBe(0);
  });

  it.each([
    [undefined, 0],
    ['low', -1],
    ['normal', 0],
    [' High ', 1],
    ['critical', 2],
    ['3', 3],
    ['-2', -2],
    ['+1', 1],
    ['99', 8],
    ['-99', -8],
    ['urgent', 0],
    ['1.5', 0],
    ['', 0],
    ['constructor', 0],
    ['1e9', 0],
  ])('priority %j is %d', (text, priority) => {
    expect(factsOf(text === undefined ? [] : [['x-class', text]]).priority).toBe(priority);
  });

  it('of several headers the first that is there counts', () => {
    expect(factsOf([['x-fallback-class', 'high']]).priority).toBe(1);
    expect(factsOf([['x-fallback-class', 'high'], ['x-class', 'low']]).priority).toBe(-1);
    expect(factsOf([['x-slo', '5']]).deadlineMs).toBe(5);
    expect(factsOf([['x-slo', '5'], ['x-deadline', '6']]).deadlineMs).toBe(6);
  });

  it('by default nobody is believed about priority', () => {
    expect(reader.toFacts(read([['x-fairlead-priority', 'critical']]), undefined, undefined, undefined)).toMatchObject({ priority: 0, deadlineMs: undefined });
  });

  it.each([
    ['1500', 1_500],
    [' 2.5 ', 2.5],
    ['0', undefined],
    ['-1', undefined],
    ['soon', undefined],
    ['1e3', undefined],
    ['', undefined],
    ['1234567890', undefined],
  ])('deadline %j: %s ms', (text, deadlineMs) => {
    expect(factsOf([['x-deadline', text]]).deadlineMs).toBe(deadlineMs);
  });

  it('of a deadline what is left counts, none at all included', () => {
    expect(factsOf([['x-deadline', '100']], 30).deadlineMs).toBe(70);
    expect(factsOf([['x-deadline', '100']], 130).deadlineMs).toBe(-30);
  });

  it('the declared length settles how long the prompt is; without one the body has to be measured', () => {
    expect(asking.toSettled(readBy([['content-length', '401']])).promptTokens).toBe(101);
    expect(asking.toSettled(readBy([])).promptTokens).toBeUndefined();
  });

  it('a body longer than was looked at is at least that long', () => {
    const headers = readBy([]);
    const body = new BodyScanner(asking.planScan(headers, needs('measuredPrompt'), true));
    body.push(Buffer.from(`{"messages":"${'x'.repeat(2_000)}`));
    expect(body.status).toBe('over-limit');
    expect(asking.toFacts(headers, undefined, body, undefined).promptTokens).toBe(250);
    expect(asking.toFacts(readBy([['content-length', '8000']]), undefined, body, undefined).promptTokens).toBe(2_000);
  });

  it('the field of the model is the first one in the body', () => {
    expect(asking.modelField).toBe('model');
    expect(new FactReader({ ...sources, model: [{ header: 'x' }, { body: 'params.name' }, { body: 'model' }] }, 1).modelField).toBe('params.name');
    expect(new FactReader({ ...sources, model: [{ header: 'x' }] }, 1).modelField).toBe('model');
  });
});
