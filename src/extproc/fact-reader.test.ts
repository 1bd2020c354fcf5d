import { describe, expect, it } from 'vitest';
import type { FactNeed } from '../core/request-facts.ts';
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
    expect(reader.toSettled(headers)).toEqual({ path: '/v1/chat/completions', model: 'in-header', session: undefined });
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

  it('passes the subset on', () => {
    const subset = new Set(['10.0.0.1:80']);
    expect(reader.toFacts(read([]), subset, undefined, undefined).subset).toBe(subset);
  });
});
