import { describe, expect, it } from 'vitest';
import { parseEndpointList, readEndpointList } from './endpoint-list.ts';

const problemsOf = (text: string): readonly string[] => {
  const outcome = parseEndpointList(text);
  return outcome.ok ? [] : outcome.problems.map(({ path, message }) => `${path}: ${message}`);
};

describe('a list of endpoints', () => {
  it('is of the shape that the configuration has; shared labels are those of all, and their own win', () => {
    const outcome = parseEndpointList("- { address: '[::1]:80', weight: 2, labels: { zone: b }, limits: { requests: 4 } }\n- { address: 10.0.0.1:80, dpSize: 2 }", { zone: 'a', gpu: 'h100' });
    expect(outcome).toMatchObject({
      ok: true,
      endpoints: [
        { address: '[::1]:80', weight: 2, labels: { zone: 'b', gpu: 'h100' }, requestsMax: 4 },
        { address: '10.0.0.1:80#0', weight: 1, labels: { zone: 'a', gpu: 'h100' } },
        { address: '10.0.0.1:80#1' },
      ],
    });
  });

  it('may be JSON, and may be empty', () => {
    expect(parseEndpointList('[{"address": "10.0.0.1:80"}]')).toMatchObject({ ok: true, endpoints: [{ address: '10.0.0.1:80' }] });
    expect(parseEndpointList('[]')).toEqual({ ok: true, endpoints: [] });
  });

  it.each([
    ['', [': Invalid input: expected array, received null']],
    ['endpoints: []', [': Invalid input: expected array, received object']],
    ['- { address: model:80 }', ["[0].address: expected ip:port, IPv6 in brackets; a host name never matches the endpoints that Envoy's override_host knows"]],
    ['- { address: 10.0.0.1:80 }\n- { address: 10.0.0.1:80 }', ['[1].address: 10.0.0.1:80 is in this list already']],
    ['- { address: 10.0.0.1:80, port: 1 }', ['[0].port: unknown field']],
  ])('cannot be %j', (text, problems) => {
    expect(problemsOf(text)).toEqual(problems);
  });

  it('is told apart from a text that is no YAML, and from a file that is not there', () => {
    expect(problemsOf('[')).toEqual([expect.stringContaining('not valid YAML')]);
    expect(readEndpointList('/nowhere/endpoints.yaml')).toMatchObject({ ok: false, problems: [{ path: '', message: expect.stringContaining('cannot be read: ENOENT') as string }] });
  });
});
