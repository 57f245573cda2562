//! An example of each command by which a server's data change, and what its replicas get of it. Other tests run them too.

use unitflow_local::RedisFlavor;

/// What is run, each line behind the one before; then what arrives of it, where that is not the same: `~` is any
/// number of digits, `||` parts what different servers make of it.
const WRITTEN: &[(&str, &str)] = &[
    // Texts and bits.
    ("SET t 1", ""),
    ("SETNX u 1", ""),
    ("SETEX v 1000 x", "SET v x PXAT ~"),
    ("PSETEX v 1000000 x", "SET v x PXAT ~"),
    ("SET v y EX 1000", "SET v y PXAT ~"),
    ("SET v z KEEPTTL", ""),
    ("GETEX v EX 2000", "PEXPIREAT v ~"),
    ("GETEX v PERSIST", "PERSIST v"),
    ("GETSET t 2", "SET t 2"),
    ("GETDEL u", "DEL u"),
    ("APPEND t 3", ""),
    ("SETRANGE t 1 9", ""),
    ("INCR t", ""),
    ("INCRBY t 2", ""),
    ("DECR t", ""),
    ("DECRBY t 2", ""),
    ("INCRBYFLOAT t 1.5", "SET t 30.5 KEEPTTL"),
    ("MSET a 1 b 2", ""),
    ("MSETNX c 1 d 2", ""),
    ("SETBIT bits 7 1", ""),
    ("BITFIELD bits SET u8 0 200", ""),
    ("BITOP NOT tibs bits", ""),
    // Keys.
    ("COPY a e", ""),
    ("RENAME e f", ""),
    ("RENAMENX f g", ""),
    ("EXPIRE a 1000", "PEXPIREAT a ~"),
    ("PEXPIRE a 1000000", "PEXPIREAT a ~"),
    ("EXPIREAT a 4102444800", "PEXPIREAT a 4102444800000"),
    ("PEXPIREAT a 4102444800001", ""),
    ("PERSIST a", ""),
    ("MOVE b 1", ""),
    ("DEL c", ""),
    ("UNLINK d", ""),
    // Lists.
    ("RPUSH l 1 2 3 4 5 6 7 8 9", ""),
    ("LPUSH l 0", ""),
    ("LPUSHX l x", ""),
    ("RPUSHX l y", ""),
    ("LINSERT l BEFORE 5 z", ""),
    ("LSET l 0 first", ""),
    ("LREM l 1 z", ""),
    ("LPOP l", ""),
    ("RPOP l 1", ""),
    ("LMOVE l m LEFT RIGHT", ""),
    ("RPOPLPUSH l m", ""),
    ("LMPOP 1 l LEFT COUNT 2", "LPOP l 2"),
    ("BLPOP l 0", "LPOP l"),
    ("BRPOP l 0", "RPOP l"),
    ("BLMOVE l m LEFT LEFT 0", "LMOVE l m LEFT LEFT"),
    ("BRPOPLPUSH m l 0", "RPOPLPUSH m l"),
    ("BLMPOP 0 1 m RIGHT", "RPOP m 1"),
    ("LTRIM l 0 0", ""),
    // Sets.
    ("SADD s 1 2 3 4", ""),
    ("SADD s2 3", ""),
    ("SREM s 4", ""),
    ("SMOVE s s2 2", ""),
    ("SPOP s2 2", "DEL s2||UNLINK s2"),
    ("SDIFFSTORE s3 s s2", ""),
    ("SINTERSTORE s4 s s3", ""),
    ("SUNIONSTORE s5 s s3", ""),
    ("SORT s STORE sorted", ""),
    // Sorted sets.
    ("ZADD z 1 a 2 b 3 c 4 d 5 e 6 f 7 g 8 h 9 i", ""),
    ("ZINCRBY z 1.5 a", ""),
    ("ZREM z i", ""),
    ("ZREMRANGEBYRANK z 0 0", ""),
    ("ZREMRANGEBYSCORE z 3 3", ""),
    ("ZUNIONSTORE z2 2 z z WEIGHTS 1 0", ""),
    ("ZINTERSTORE z3 1 z", ""),
    ("ZDIFFSTORE z4 1 z", ""),
    ("ZRANGESTORE z5 z 0 -1", ""),
    ("ZREMRANGEBYLEX z5 - [a", ""),
    ("ZPOPMIN z", ""),
    ("ZPOPMAX z", ""),
    ("ZMPOP 1 z MIN", "ZPOPMIN z 1"),
    ("BZPOPMIN z 0", "ZPOPMIN z"),
    ("BZPOPMAX z 0", "ZPOPMAX z"),
    ("BZMPOP 0 1 z MAX", "ZPOPMAX z 1"),
    // Hashes.
    ("HSET h a 1 b 2", ""),
    ("HMSET h c 3", ""),
    ("HSETNX h d 4", ""),
    ("HINCRBY h a 5", ""),
    ("HINCRBYFLOAT h a 0.5", "HSET h a 6.5||HSETEX h KEEPTTL FIELDS 1 a 6.5"),
    ("HDEL h d", ""),
    // Places, estimates.
    (
        "GEOADD geo 13.361389 38.115556 palermo",
        "zadd geo 3479099956230698 palermo||ZADD geo 3479099956230698 palermo",
    ),
    ("GEOSEARCHSTORE geo2 geo FROMMEMBER palermo BYRADIUS 9 km", ""),
    ("GEORADIUS geo 13 38 200 km STORE geo3", ""),
    ("GEORADIUSBYMEMBER geo palermo 1 km STORE geo4", ""),
    ("PFADD p a b", ""),
    ("PFADD p2 c", ""),
    ("PFMERGE p p2", ""),
    ("PFCOUNT p", ""),
    // Streams.
    ("XADD x 1-1 f v", ""),
    ("XADD x * f v", "XADD x ~-~ f v"),
    ("XADD x MAXLEN ~ 1000 * f v", "XADD x MAXLEN = ~ ~-~ f v"),
    ("XGROUP CREATE x g 0", ""),
    ("XGROUP CREATECONSUMER x g c", ""),
    (
        "XREADGROUP GROUP g c COUNT 1 STREAMS x >",
        "XCLAIM x g c 0 1-1 TIME ~ RETRYCOUNT 1 FORCE JUSTID LASTID 1-1||\
         XCLAIM x g c 0 1-1 TIME ~ RETRYCOUNT 1 FORCE JUSTID LASTID 1-1\nXGROUP SETID x g 1-1 ENTRIESREAD 1",
    ),
    ("XCLAIM x g d 0 1-1", "XCLAIM x g d 0 1-1 TIME ~ RETRYCOUNT 2 FORCE JUSTID LASTID 1-1"),
    ("XAUTOCLAIM x g c 0 0", "XCLAIM x g c 0 1-1 TIME ~ RETRYCOUNT 3 FORCE JUSTID LASTID 1-1"),
    ("XACK x g 1-1", ""),
    ("XGROUP SETID x g 0", ""),
    ("XGROUP DELCONSUMER x g d", ""),
    ("XGROUP DESTROY x g", ""),
    ("XDEL x 1-1", ""),
    ("XTRIM x MAXLEN 1", ""),
    ("XSETID x 9999999999999-0", ""),
    // Scripts and functions are their effects.
    ("EVAL return{redis.call('SET','t',1),redis.call('INCR','t')} 0", "SET t 1\nINCR t"),
    ("FUNCTION FLUSH", ""),
    // More than keys.
    ("PUBLISH channel message", ""),
    ("SPUBLISH channel message", ""),
    ("SWAPDB 0 1", ""),
    ("FLUSHDB", ""),
    ("FLUSHALL", ""),
];

/// The same of what Redis 7 does not have: fields that expire.
const FIELDS: &[(&str, &str)] = &[
    ("HSET of-fields a 1 b 2 c 3 d 4 e 5 f 6", ""),
    ("HEXPIRE of-fields 1000 FIELDS 1 a", "HPEXPIREAT of-fields ~ FIELDS 1 a"),
    ("HPEXPIRE of-fields 1000000 FIELDS 1 b", "HPEXPIREAT of-fields ~ FIELDS 1 b"),
    ("HEXPIREAT of-fields 4102444800 FIELDS 1 c", "HPEXPIREAT of-fields 4102444800000 FIELDS 1 c"),
    ("HPEXPIREAT of-fields 4102444800001 FIELDS 1 d", ""),
    ("HPERSIST of-fields FIELDS 1 d", ""),
    ("HGETDEL of-fields FIELDS 1 e", "HDEL of-fields e||HGETDEL of-fields FIELDS 1 e"),
    ("HGETEX of-fields EX 1000 FIELDS 1 f", "HPEXPIREAT of-fields ~ FIELDS 1 f"),
    ("HSETEX of-fields EX 1000 FIELDS 2 g 7 h 8", "HSETEX of-fields PXAT ~ FIELDS 2 g 7 h 8"),
];

/// Of Valkey alone.
const VALKEY: &[(&str, &str)] = &[
    ("SET k v", ""),
    ("SET k w IFEQ v", ""),
    ("DELIFEQ k w", "DEL k"),
    ("MSETEX 2 k 1 k2 2 EX 1000", "MSETEX 2 k 1 k2 2 PXAT ~"),
];

/// Those of a server, in their order.
pub fn written(flavor: RedisFlavor) -> Vec<(&'static str, &'static str)> {
    let (mut fields, mut valkey) = (FIELDS, VALKEY);
    if flavor == RedisFlavor::Redis7 {
        fields = &[];
    }
    if flavor != RedisFlavor::Valkey {
        valkey = &[];
    }
    // FLUSHALL comes last.
    [fields, valkey, WRITTEN].concat()
}
