import { describe, expect, it } from 'vitest';
import { redisSettings } from '../../test/integration/router-under-test.ts';
import { describeTarget, explainTrouble } from './connection.ts';

/** What the server answered. */
function reply(message: string): Error {
  return Object.assign(new Error(message), { name: 'ReplyError' });
}

function failure(message: string, code?: string): Error {
  return Object.assign(new Error(message), code !== undefined && { code });
}

const causes: readonly [name: string, error: Error, code: string | undefined, permanent: boolean][] = [
  ['a wrong password', reply('WRONGPASS invalid username-password pair or user is disabled.'), 'credentials', true],
  ['no password where one is wanted', reply('NOAUTH Authentication required.'), 'credentials', true],
  ['a password where none is wanted', reply('ERR AUTH <password> called without any password configured for the default user.'), 'credentials', true],
  ['a missing permission', reply("NOPERM this user has no permissions to run the 'xadd' command"), 'permission', true],
  ['one in a script, up to 7.0', reply("ERR The user executing the script can't run this command or subcommand script: f00, on @user_script:1."), 'permission', true],
  ['one in a script, later', reply("ERR ACL failure in script: User a has no permissions to run the 'zadd' command script: on @user_script:1."), 'permission', true],
  ['a port without TLS', failure('write EPROTO … wrong version number', 'ERR_SSL_WRONG_VERSION_NUMBER'), 'no-tls', true],
  ['a certificate of someone else', failure('self-signed certificate in certificate chain', 'SELF_SIGNED_CERT_IN_CHAIN'), 'tls', true],
  ['an unknown issuer', failure('unable to get local issuer certificate', 'UNABLE_TO_GET_ISSUER_CERT_LOCALLY'), 'tls', true],
  ['a certificate for another name', failure("Hostname/IP does not match certificate's altnames", 'ERR_TLS_CERT_ALTNAME_INVALID'), 'tls', true],
  ['a certificate that is too old', failure('certificate has expired', 'CERT_HAS_EXPIRED'), 'tls', true],
  ['a server that wants our certificate', failure('… tlsv13 alert certificate required …', 'ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED'), 'tls', true],
  ['a replica', reply("READONLY You can't write against a read only replica."), 'read-only', false],
  ['a replica, from a script before 7', reply("ERR Error running script (call to f_1): @user_script:10: @user_script: 10: -READONLY You can't write against a read only replica."), 'read-only', false],
  ['no memory', reply("OOM command not allowed when used memory > 'maxmemory'. script: f00, on @user_script:9."), 'out-of-memory', false],
  ['no disk', reply('MISCONF Redis is configured to save RDB snapshots, but it is currently unable to persist to disk.'), 'out-of-memory', false],
  ['a cluster with a hole', reply('CLUSTERDOWN The cluster is down'), 'unreachable', false],
  ['silence', failure('Command timed out'), 'timeout', false],
  ['silence of a socket', failure("Socket timeout. Expecting data, but didn't receive any in 2000ms."), 'timeout', false],
  ['no way there', failure('connect ETIMEDOUT', 'ETIMEDOUT'), 'timeout', false],
  ['nobody there', failure('connect ECONNREFUSED 127.0.0.1:6379', 'ECONNREFUSED'), 'unreachable', false],
  ['an unknown name', failure('getaddrinfo ENOTFOUND redis', 'ENOTFOUND'), 'unreachable', false],
  ['no sentinel there', failure('All sentinels are unreachable. Retrying from scratch after 78ms. Last error: connect ECONNREFUSED 127.0.0.1:26379'), 'unreachable', false],
  ['sentinels whose master is not there', failure('All sentinels are unreachable. Retrying from scratch after 78.5ms.'), undefined, false],
  ['a closed connection', failure('Connection is closed.'), undefined, false],
  ['a command that was cut off', failure('Command aborted due to connection close'), undefined, false],
  ['a client that waits', failure("Stream isn't writeable and enableOfflineQueue options is false"), undefined, false],
  ['a key of another type', reply('WRONGTYPE Operation against a key holding the wrong kind of value'), 'other', false],
  ['anything else', failure('whatever'), 'other', false],
];

describe('explainTrouble', () => {
  for (const [name, error, code, permanent] of causes) {
    it(`names ${name}`, () => {
      const trouble = explainTrouble(error, 'redis.example:6379');
      if (code === undefined) {
        expect(trouble).toBeUndefined();
        return;
      }
      expect(trouble).toMatchObject({ code, permanent });
      expect(trouble?.message).toMatch(/^Redis at redis\.example:6379: \S/);
    });
  }
});

describe('describeTarget', () => {
  const settings = redisSettings('redis://user:geheim@[::1]:6380/3');
  const nodes = [
    { host: 'a', port: 1 },
    { host: 'b', port: 2 },
  ];

  it('says where Redis is, and neither user nor password', () => {
    expect(describeTarget(settings)).toBe('::1:6380');
    expect(describeTarget({ ...settings, url: 'redis://redis' })).toBe('redis:6379');
    expect(describeTarget({ ...settings, sentinel: { nodes, name: 'main', username: 'user', password: 'geheim' } })).toBe('master main of sentinels a:1, b:2');
    expect(describeTarget({ ...settings, cluster: { nodes } })).toBe('cluster a:1, b:2');
  });
});
