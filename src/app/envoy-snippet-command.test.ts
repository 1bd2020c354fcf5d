import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { loadConfig } from '../config/load.ts';
import type { Config } from '../config/schema.ts';
import { createSnippet } from './envoy-snippet-command.ts';

const repository = (file: string): string => readFileSync(fileURLToPath(new URL(`../../${file}`, import.meta.url)), 'utf8');

function settingsOf(text: string): Pick<Config, 'listen' | 'workers'> {
  const outcome = loadConfig(`${text}\npools: [{ name: chat, endpoints: [{ address: '10.0.0.1:80' }] }]`);
  if (!outcome.ok) throw new Error(JSON.stringify(outcome.problems));
  return outcome.config.settings;
}

interface Cluster {
  readonly name: string;
  readonly type: string;
  readonly transport_socket?: unknown;
  readonly load_assignment: { readonly endpoints: readonly { readonly lb_endpoints: readonly { readonly endpoint: { readonly address: unknown } }[] }[] };
}

function clusterIn(file: string): Cluster {
  const { static_resources: found } = parse(repository(file)) as { static_resources: { clusters: Cluster[] } };
  return found.clusters.find(({ name }) => name === 'fairlead')!;
}

const addressesOf = (snippet: unknown): unknown[] => (snippet as Cluster).load_assignment.endpoints.flatMap((group) => group.lb_endpoints.map(({ endpoint }) => endpoint.address));
const socket = (address: string, port: number): object => ({ socket_address: { address, port_value: port } });

describe('the snippet for Envoy', () => {
  it('is what the shipped configurations have', () => {
    const example = settingsOf(/^listen:\n( .*\n)+/m.exec(repository('fairlead.example.yaml'))![0]);
    expect(clusterIn('envoy/envoy.yaml')).toEqual(createSnippet(example, { name: 'fairlead' }));
    const composed = settingsOf(/^listen: .*$/m.exec(repository('deploy/compose/fairlead.yaml'))![0]);
    expect(clusterIn('deploy/compose/envoy.yaml')).toEqual(createSnippet(composed, { name: 'fairlead', host: ['172.28.9.11', '172.28.9.12'] }));
  });

  it('has an endpoint for each worker of each host', () => {
    const settings = settingsOf("workers: 2\nlisten: { grpc: '0.0.0.0:9002' }");
    expect(addressesOf(createSnippet(settings, { name: 'f', host: ['10.1.0.1', '10.1.0.2'] }))).toEqual([
      socket('10.1.0.1', 9002),
      socket('10.1.0.1', 9004),
      socket('10.1.0.2', 9002),
      socket('10.1.0.2', 9004),
    ]);
    expect(addressesOf(createSnippet(settings, { name: 'f', host: ['fd00::1'], workers: 1 }))).toEqual([socket('fd00::1', 9002)]);
    expect(createSnippet(settings, { name: 'f', host: ['fairlead.svc'] })).toMatchObject({ name: 'f', type: 'STRICT_DNS' });
    expect(addressesOf(createSnippet(settingsOf('listen: { grpc: unix:/run/f.sock }'), { name: 'f', workers: 2 }))).toEqual([
      { pipe: { path: '/run/f.sock.0' } },
      { pipe: { path: '/run/f.sock.1' } },
    ]);
  });

  it('speaks TLS where Fairlead does, and shows a certificate where it asks for one', () => {
    const { workers, listen } = settingsOf('');
    const tls = { certFile: 'c', keyFile: 'k' };
    expect(createSnippet({ workers, listen: { ...listen, tls } }, { name: 'f', tlsCa: '/ca.pem' })).toMatchObject({
      transport_socket: { typed_config: { common_tls_context: { alpn_protocols: ['h2'], validation_context: { trusted_ca: { filename: '/ca.pem' } } } } },
    });
    const mutual = { workers, listen: { ...listen, tls: { ...tls, clientCaFile: 'ca' } } };
    expect(createSnippet(mutual, { name: 'f', tlsCa: '/ca.pem', tlsCert: '/c.pem', tlsKey: '/k.pem' })).toMatchObject({
      transport_socket: { typed_config: { common_tls_context: { tls_certificates: [{ certificate_chain: { filename: '/c.pem' }, private_key: { filename: '/k.pem' } }] } } },
    });
    expect(createSnippet(mutual, { name: 'f', tlsCa: '/ca.pem' })).toMatch(/--tls-cert FILE/);
    expect(createSnippet({ workers, listen: { ...listen, tls } }, { name: 'f' })).toMatch(/--tls-ca FILE/);
    expect(createSnippet({ workers, listen }, { name: 'f', tlsCa: '/ca.pem' })).toMatch(/listen.tls, which is not set/);
  });

  it.each([
    ['any free port', "listen: { grpc: '127.0.0.1:0' }", {}, /port 0/],
    ['every address of the machine', "listen: { grpc: '[::]:9002' }", {}, /--host ADDRESS/],
    ['a host with a port', '', { host: ['10.0.0.1:80'] }, /without a port: \[10.0.0.1:80\]/],
    ['a host beside a Unix socket', 'listen: { grpc: unix:/run/f.sock }', { host: ['10.0.0.1'] }, /does not go with/],
    ['more ports than there are', "listen: { grpc: '127.0.0.1:65535' }", { workers: 2 }, /^listen.grpc: expected a lower port/],
  ])('says why there is none: %s', (_, text, options, expected) => {
    expect(createSnippet(settingsOf(text), { name: 'f', ...options })).toMatch(expected);
  });
});
