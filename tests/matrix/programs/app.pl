#!/usr/bin/perl
# What README.md says, in Perl with FCGI. Started without a FastCGI socket it is a CGI program.
use strict;
use warnings;
use FCGI;
use IO::Handle;
use Time::HiRes qw(usleep);

my ($in, $out, $err) = (\*STDIN, \*STDOUT, \*STDERR);
my $request = FCGI::Request($in, $out, $err, \%ENV);

sub send_pattern {
    my ($args, $from, $size) = @_;
    open my $file, '<:raw', "$args->{dir}/pattern.bin" or die;
    seek $file, $from, 0;
    while ($size > 0) {
        my $count = read $file, my $piece, $size < 65536 ? $size : 65536;
        last unless $count;
        print $piece;
        $size -= $count;
    }
    close $file;
}

sub flush_all {
    if ($request->IsFastCGI()) {
        $request->Flush();
    } else {
        STDOUT->flush();
    }
}

sub wait_for {
    my ($path) = @_;
    for (1 .. 5000) {
        return 1 if -e $path;
        usleep(1000);
    }
    return 0;
}

while ($request->Accept() >= 0) {
    my %args = map { split /=/, $_, 2 } split /&/, $ENV{QUERY_STRING};
    my $do = $args{do};
    my $head = "Content-Type: text/plain\r\n";
    if ($do eq 'page') {
        print "$head\r\n";
        send_pattern(\%args, $args{from}, $args{size});
    } elsif ($do eq 'echo') {
        my $body = '';
        while (read STDIN, my $piece, 65536) {
            $body .= $piece;
        }
        print "$head\r\n$body";
    } elsif ($do eq 'slow') {
        print "Content-Type: text/event-stream\r\nX-Accel-Buffering: no\r\n\r\n";
        for my $number (1 .. $args{pieces}) {
            print "piece $number\n";
            flush_all();
            next if wait_for("$args{dir}/seen-$number");
            print "nobody has seen it\n";
            last;
        }
    } elsif ($do eq 'status') {
        print "Status: $args{code}\r\n$head\r\n";
    } elsif ($do eq 'headers') {
        print $head;
        print "X-Many-$_: ", 'h' x $args{length}, "\r\n" for 0 .. $args{count} - 1;
        print "\r\nheaders\n";
    } elsif ($do eq 'stderr') {
        print "$head\r\n";
        for my $number (0 .. 19) {
            send_pattern(\%args, 1000 * $number, 1000);
            flush_all();
            print STDERR "something on stderr $number\n";
            flush_all();
        }
    } elsif ($do eq 'early') {
        print "$head\r\nearly\n";
    } elsif ($do eq 'die') {
        if (defined $args{size}) {
            print "$head\r\n";
            send_pattern(\%args, 0, $args{size});
            flush_all();
        }
        kill 'KILL', $$;
    }
}
